//! `check` and start-up explain what is wrong in one sentence that names the thing and the fix.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use chaos::lab::{Mesh, Node, Topology, bin_dir};
use rcgen::{CertificateParams, KeyPair};

use crate::run;

/// Exit code and standard error of `PROGRAM check --config FILE`.
fn check(program: &str, config: &Path) -> Result<(bool, String)> {
    let program = bin_dir()?.join(program);
    let output = Command::new(program).arg("check").arg("--config").arg(config).output()?;
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    Ok((output.status.success(), said))
}

/// A copy of a node's configuration with one text replaced everywhere.
fn broken(config: &Path, from: &str, to: &str) -> Result<std::path::PathBuf> {
    let text = std::fs::read_to_string(config)?;
    ensure!(text.contains(from), "{} has no '{from}':\n{text}", config.display());
    let path = config.with_extension("broken.toml");
    std::fs::write(&path, text.replace(from, to))?;
    Ok(path)
}

struct Case {
    what: &'static str,
    program: &'static str,
    from: String,
    to: String,
    /// What the sentence must name.
    names: Vec<String>,
}

fn cases(mesh: &Mesh) -> Vec<Case> {
    let dir = mesh.dir().display().to_string();
    let mut cases = Vec::new();
    for (program, own, other, section) in [
        ("pop-node", "fra1", "iad1", "[pop]"),
        ("control-plane", "control-1", "control-2", "[node]"),
    ] {
        let mut case = |what, from: &str, to: &str, names: &[&str]| {
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            cases.push(Case { what, program, from: from.to_owned(), to: to.to_owned(), names });
        };
        case("an unknown key", section, &format!("{section}\ncolour = \"red\""), &["colour"]);
        let (own_pem, own_key) = (format!("{dir}/pki/{own}.pem"), format!("{dir}/pki/{own}.key"));
        let missing = format!("{dir}/pki/nobody.pem");
        case("a certificate that is not there", &own_pem, &missing, &["nobody.pem"]);
        case("a key that is another's", &own_key, &format!("{dir}/pki/{other}.key"), &["key"]);
        let text = format!("{dir}/{own}.toml");
        case("a certificate that is none", &own_pem, &text, &[&format!("{own}.toml")]);
        case("another mesh", "mesh = \"demo\"", "mesh = \"other\"", &["demo", "other"]);
    }
    let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    cases.push(Case {
        what: "the identity of another POP",
        program: "pop-node",
        from: "id = \"fra1\"".into(),
        to: "id = \"fra2\"".into(),
        names: named(&["fra1", "fra2"]),
    });
    // Certificate and key of the second node in the first one's file.
    cases.push(Case {
        what: "the identity of another control node",
        program: "control-plane",
        from: "pki/control-1.".into(),
        to: "pki/control-2.".into(),
        names: named(&["control/2", "control-2.pem"]),
    });
    cases
}

#[test]
fn a_good_configuration_passes() {
    run(async {
        let mesh = Mesh::prepare(&Topology::three_regions(&bin_dir()?))?;
        for (program, node) in
            [("pop-node", Node::pop("fra1")), ("control-plane", Node::Control(1))]
        {
            let (good, said) = check(program, &mesh.config(&node))?;
            assert!(good, "{program} check refuses a good file: {said}");
        }
        Ok(())
    });
}

#[test]
fn each_mistake_has_its_sentence() {
    run(async {
        let mesh = Mesh::prepare(&Topology::three_regions(&bin_dir()?))?;
        let mut wrong = Vec::new();
        for case in cases(&mesh) {
            let node =
                if case.program == "pop-node" { Node::pop("fra1") } else { Node::Control(1) };
            let config = broken(&mesh.config(&node), &case.from, &case.to)?;
            let (good, said) = check(case.program, &config)?;
            println!("{} check, {}:\n  {}", case.program, case.what, said.trim());
            if good
                || case.names.iter().any(|name| !said.contains(name.as_str()))
                || said.contains("panicked")
            {
                wrong.push(format!("{} check, {}: {}", case.program, case.what, said.trim()));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

#[test]
fn a_taken_port_is_named() {
    run(async {
        let mesh = Mesh::prepare(&Topology::three_regions(&bin_dir()?))?;
        let site = mesh.site("fra1")?;
        let _sip = UdpSocket::bind(site.sip)?;
        let (good, said) = check("pop-node", &mesh.config(&Node::pop("fra1")))?;
        println!("{said}");
        assert!(!good && said.contains(&site.sip.to_string()), "pop-node check: {said}");
        let api = *mesh.api().first().context("an API address")?;
        let _api = TcpListener::bind(api)?;
        let (good, said) = check("control-plane", &mesh.config(&Node::Control(1)))?;
        println!("{said}");
        assert!(!good && said.contains(&api.to_string()), "control-plane check: {said}");
        Ok(())
    });
}

/// Certificates that are valid tomorrow only: the clock is behind, or they were made too early.
#[test]
fn a_clock_behind_the_certificate_is_named() {
    run(async {
        let mesh = Mesh::prepare(&Topology::three_regions(&bin_dir()?))?;
        let key = KeyPair::generate()?;
        for (program, node, uri) in [
            ("pop-node", Node::pop("fra1"), "spiffe://demo/eu/pop/fra1"),
            ("control-plane", Node::Control(1), "spiffe://demo/eu/control/1"),
        ] {
            let mut params = CertificateParams::new(vec!["x.voxmesh".to_owned()])?;
            params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into()?));
            params.not_before = rcgen::date_time_ymd(2999, 1, 1);
            params.not_after = rcgen::date_time_ymd(3000, 1, 1);
            let pki = mesh.dir().join("pki");
            // Its own authority: the files are consistent, only the time is not.
            let certificate = params.self_signed(&key)?.pem();
            std::fs::write(pki.join("ca.pem"), &certificate)?;
            std::fs::write(pki.join(format!("{node}.pem")), &certificate)?;
            std::fs::write(pki.join(format!("{node}.key")), key.serialize_pem())?;
            let (good, said) = check(program, &mesh.config(&node))?;
            println!("{said}");
            let named = said.contains("clock") && said.contains(".pem");
            assert!(!good && named, "{program} check: {said}");
        }
        Ok(())
    });
}
