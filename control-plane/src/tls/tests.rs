use super::*;
use crate::pki;

struct Made {
    _dir: tempfile::TempDir,
    files: TlsFiles,
}

fn made(mesh: &str, kind: Kind, name: &str) -> Made {
    let dir = tempfile::tempdir().unwrap();
    pki::init(mesh, dir.path()).unwrap();
    let request = pki::Request { kind, name: name.into(), region: "eu".into(), ..<_>::default() };
    let issued = pki::issue(dir.path(), &request, dir.path()).unwrap();
    let files = TlsFiles { ca: dir.path().join("ca.pem"), cert: issued.cert, key: issued.key };
    Made { _dir: dir, files }
}

fn config(made: &Made) -> Config {
    let text = format!(
        "[node]\nid=1\nregion='eu'\nmesh='demo'\ndata_dir='/x'\n[api]\nlisten='127.0.0.1:1'\n\
         [[members]]\nid=1\naddress='127.0.0.1:1'\nregion='eu'\n\
         [tls]\nca={:?}\ncert={:?}\nkey={:?}\n[admin]\nlisten='127.0.0.1:2'\n",
        made.files.ca, made.files.cert, made.files.key
    );
    Config::parse(&text, "x").unwrap()
}

fn refusal(made: &Made) -> String {
    let credentials = Credentials::load(&made.files).unwrap();
    credentials.check_for(&config(made), SystemTime::now()).unwrap_err().to_string()
}

#[test]
fn an_issued_certificate_passes_and_serves() {
    let made = made("demo", Kind::Control, "1");
    let credentials = Credentials::load(&made.files).unwrap();
    let identity = credentials.check_for(&config(&made), SystemTime::now()).unwrap();
    assert_eq!(identity.to_uri(), "spiffe://demo/eu/control/1");
    credentials.server_config().unwrap();
}

#[test]
fn the_wrong_owner_is_named_with_the_field() {
    let said = refusal(&made("other", Kind::Control, "1"));
    assert!(said.starts_with("node.mesh is \"demo\", but "), "{said}");
    assert!(said.contains("was issued to \"other\""), "{said}");
    let said = refusal(&made("demo", Kind::Pop, "fra1"));
    assert!(said.starts_with("node.id is \"1\", but "), "{said}");
    let said = refusal(&made("demo", Kind::Control, "2"));
    assert!(said.contains("was issued to \"control/2\""), "{said}");
}

#[test]
fn a_clock_outside_the_validity_is_named() {
    let made = made("demo", Kind::Control, "1");
    let credentials = Credentials::load(&made.files).unwrap();
    let day = Duration::from_secs(86_400);
    let said = credentials.check(SystemTime::now() - 30 * day).unwrap_err().to_string();
    assert!(said.contains("is not valid yet: its validity begins in 29 days: set this"), "{said}");
    let said = credentials.check(SystemTime::now() + 4_000 * day).unwrap_err().to_string();
    assert!(said.contains("expired") && said.contains("days ago"), "{said}");
}

#[test]
fn another_authority_or_key_is_named() {
    let (mut ours, theirs) = (made("demo", Kind::Control, "1"), made("demo", Kind::Control, "1"));
    let own_ca = std::mem::replace(&mut ours.files.ca, theirs.files.ca.clone());
    let said = refusal(&ours);
    assert!(said.starts_with("tls.cert ") && said.contains("was not signed by"), "{said}");
    ours.files.ca = own_ca;
    ours.files.key = theirs.files.key.clone();
    let said = refusal(&ours);
    assert!(said.starts_with("tls.key ") && said.contains("does not belong"), "{said}");
}

#[test]
fn unreadable_files_are_named() {
    let mut ours = made("demo", Kind::Control, "1");
    std::fs::write(&ours.files.cert, "no PEM").unwrap();
    let said = Credentials::load(&ours.files).err().unwrap().to_string();
    assert!(said.starts_with("tls.cert ") && said.contains("holds no PEM certificate"), "{said}");
    ours.files.cert = "/nowhere/x.pem".into();
    let said = Credentials::load(&ours.files).err().unwrap().to_string();
    assert!(said.starts_with("tls.cert /nowhere/x.pem cannot be read"), "{said}");
}
