//! `pop-node join`: a token becomes a certificate and a first configuration.

use std::path::Path;

use enroll::place::{self, PlaceError, Placed};
use enroll::token::Token;
use proto::identity::Kind;

/// Joins; what to say to the operator.
pub async fn run(token: &Token, dir: &Path) -> Result<String, PlaceError> {
    let placed = place::enter(token, dir, Kind::Pop).await?;
    let config = dir.join("pop-node.toml");
    let written = place::configure(&config, &configuration(&placed, dir))?;
    let identity = placed.joined.identity.to_uri();
    let file = config.display();
    let what = if written { "written: look at the addresses in it" } else { "left as it was" };
    Ok(format!(
        "{identity}: key and certificate in {}\n{file} is {what}\nnext: pop-node check --config \
         {file}\nthen: pop-node --config {file}",
        placed.identity.display()
    ))
}

fn configuration(placed: &Placed, dir: &Path) -> String {
    let identity = &placed.joined.identity;
    let members = &placed.joined.members;
    let ip = place::own_address(members).map_or_else(|| "192.0.2.1".into(), |ip| ip.to_string());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    let endpoints: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
    let (ca, pem) = (&placed.ca, &placed.identity);
    format!(
        "# First configuration of this POP; deploy/pop-node.toml explains each key.\n\
         [pop]\nid = {:?}\nregion = {:?}\nmesh = {:?}\ndata_dir = {:?}\n\n\
         # Addresses that carriers and other POPs reach.\n\
         [sip]\nlisten = [\"udp:{host}:5060\", \"tcp:{host}:5060\"]\n\n\
         [media]\naddress = {ip:?}\nports = \"20000-29999\"\n\n\
         [overlay]\nlisten = \"{host}:4433\"\n\n\
         [control]\nendpoints = {endpoints:?}\n\n\
         [tls]\nca = {ca:?}\n# Key and certificate in one file: it is renewed in time.\n\
         cert = {pem:?}\nkey = {pem:?}\n\n\
         [admin]\nlisten = \"127.0.0.1:9091\"\n",
        identity.name,
        identity.region,
        identity.mesh,
        dir.join("data"),
    )
}
