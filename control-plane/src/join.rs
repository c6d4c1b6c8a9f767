//! `control-plane join`: a token becomes a certificate and a first configuration.

use std::fmt::Write as _;
use std::path::Path;

use enroll::place::{self, PlaceError, Placed};
use enroll::token::Token;
use proto::identity::Kind;

/// Joins; what to say to the operator.
pub async fn run(token: &Token, dir: &Path) -> Result<String, PlaceError> {
    let placed = place::enter(token, dir, Kind::Control).await?;
    let config = dir.join("control-plane.toml");
    let written = place::configure(&config, &configuration(&placed, dir))?;
    let identity = placed.joined.identity.to_uri();
    let file = config.display();
    let what = if written { "written: look at the addresses in it" } else { "left as it was" };
    Ok(format!(
        "{identity}: key and certificate in {}\n{file} is {what}\nnext: control-plane check \
         --config {file}\nthen: control-plane --config {file}",
        placed.identity.display()
    ))
}

fn configuration(placed: &Placed, dir: &Path) -> String {
    let identity = &placed.joined.identity;
    let own = placed.joined.members.iter().find(|m| m.node_id.to_string() == identity.name);
    let host = place::own_address(&placed.joined.members)
        .map_or_else(|| "192.0.2.14".to_owned(), |ip| ip.to_string());
    let listen = own.map_or_else(|| format!("{host}:7000"), |own| own.address.clone());
    let others = placed.joined.members.iter().filter(|m| m.node_id.to_string() != identity.name);
    let join: Vec<&str> = others.map(|member| member.address.as_str()).collect();
    let mut text = format!(
        "# First configuration of this control node; deploy/control-plane.toml explains each key.\n\
         [node]\nid = {}\nregion = {:?}\nmesh = {:?}\ndata_dir = {:?}\n# Who lets it in.\n\
         join = {join:?}\n\n\
         [api]\n# As the other members reach it.\nlisten = {listen:?}\n\n",
        identity.name,
        identity.region,
        identity.mesh,
        dir.join("data"),
    );
    let (ca, pem) = (&placed.ca, &placed.identity);
    let _ = write!(
        text,
        "\n[tls]\nca = {ca:?}\n# Key and certificate in one file: it is renewed in time.\n\
         cert = {pem:?}\nkey = {pem:?}\n\n[admin]\nlisten = \"127.0.0.1:9090\"\n"
    );
    text
}
