//! What to type next.

use pop_core::codec::Codec;

use super::plan;
use crate::lab::{Mesh, Node};

/// How to call in while the mesh goes on.
pub(super) fn call_in(mesh: &Mesh) -> Vec<String> {
    let sites = mesh.sites();
    let mut lines = vec![
        "The mesh goes on. Call in with any softphone on this machine: no account, no password,"
            .into(),
        "no registration, UDP, source address 127.0.0.1. The number's last digit is the codec of"
            .into(),
        "the phone that answers (0 PCMU, 1 PCMA, 2 G722, 3 Opus):".into(),
        String::new(),
    ];
    let all = sites.len().max(1);
    for (index, site) in sites.iter().enumerate() {
        let far = plan::numbers((index + 1) % all);
        let number = plan::called(far.owned, Codec::Opus);
        lines.push(format!(
            "    sip:{number}@{ip}   in at {here}, answered in {there}",
            ip = site.sip.ip(),
            here = plan::numbers(index).place,
            there = far.place
        ));
    }
    if let Some(site) = sites.first() {
        let number = plan::called(plan::numbers(1).owned, Codec::Opus);
        let ip = site.sip.ip();
        lines.push(String::new());
        lines.push(format!("    baresip -e '/dial sip:{number}@{ip}'     for example"));
        lines.push(format!("    curl http://{}/metrics        what this POP counts", site.admin));
    }
    lines.push(format!("    {} status", meshctl(mesh)));
    lines.push(format!("    less {}/log/*.log", mesh.dir().display()));
    lines
}

/// How to make a mesh that stays.
pub(super) fn real_mesh(mesh: &Mesh) -> Vec<String> {
    let bin = mesh.bin_dir().display();
    [
        "A real mesh: the same programs, one machine each (deploy/*.toml say what to fill in).",
        "",
        "    meshctl pki init --mesh mymesh --out pki",
        "    meshctl pki issue --ca pki --kind control --name 1 --region eu --ip 192.0.2.11 --out pki",
        "    meshctl pki issue --ca pki --kind pop --name fra1 --region eu --ip 192.0.2.1 --out pki",
        "    meshctl pki issue --ca pki --kind operator --name anna --region eu --out pki",
        "    control-plane check --config /etc/voxmesh/control-plane.toml   and then without check",
        "    pop-node check --config /etc/voxmesh/pop-node.toml             and then without check",
        "    meshctl trunks put --help     and routes, numbers: what the demo did through the API",
        "",
    ]
    .into_iter()
    .map(ToOwned::to_owned)
    .chain([format!("The programs are in {bin}.")])
    .collect()
}

fn meshctl(mesh: &Mesh) -> String {
    let config = mesh.dir().join("operator.toml");
    format!("{}/meshctl --config {}", mesh.bin_dir().display(), config.display())
}

/// For the list of what runs.
pub(super) fn addresses(mesh: &Mesh) -> Vec<String> {
    let control: Vec<String> = mesh.api().iter().map(ToString::to_string).collect();
    let mut lines = vec![format!("  control nodes  {}", control.join("  "))];
    for site in mesh.sites() {
        let pid = mesh.process(&Node::pop(&site.id)).map_or(0, |p| p.pid());
        let (id, region) = (&site.id, &site.region);
        lines.push(format!("  POP {id:<10} {region:<3} sip {}  pid {pid}", site.sip));
    }
    lines
}
