use super::*;

const GOOD: &str = r#"
[node]
id = 1
region = "eu"
mesh = "demo"
data_dir = "/var/lib/voxmesh/control-1"
[api]
listen = "127.0.0.11:7000"
[[members]]
id = 3
address = "127.0.0.13:7000"
region = "ap"
[[members]]
id = 1
address = "127.0.0.11:7000"
region = "eu"
[[members]]
id = 2
address = "control-2.example.net:7000"
region = "us"
[tls]
ca = "ca.pem"
cert = "control-1.pem"
key = "control-1.key"
[admin]
listen = "127.0.0.11:9090"
[timers]
tick = "50ms"
"#;

fn refusal(text: &str) -> String {
    Config::parse(text, "x.toml").expect_err("refused").to_string()
}

#[test]
fn a_good_file_is_read_and_members_sorted() {
    let config = Config::parse(GOOD, "x.toml").unwrap();
    let ids: Vec<u64> = config.members.iter().map(|m| m.id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(config.timers.heartbeat_ticks(), 2);
    assert_eq!(config.timers.election_ticks(), (16, 24));
    assert!(config.timers.fixed);
    assert_eq!(config.own_member().unwrap().region, "eu");
    assert_eq!(config.peers().count(), 2);
}

#[test]
fn an_archive_is_a_directory_and_has_usual_times() {
    let text = |lines: &str| format!("{GOOD}[backup]\n{lines}\n");
    let config = Config::parse(&text("target = \"file:///mnt/b\"\nkeep = 2"), "x.toml").unwrap();
    let backup = config.backup.unwrap();
    assert_eq!((backup.target.to_string(), backup.keep), ("/mnt/b".to_owned(), 2));
    assert_eq!(backup.every, Duration::from_secs(5));
    assert_eq!(backup.tables_every, Duration::from_secs(86_400));
    for (lines, says) in [
        ("target = \"gs://bucket\"", "backup.target is of gs, which this version does not know"),
        ("target = \"here\"", "backup.target \"here\" is not absolute"),
        ("target = \"/b\"\nevery = \"fast\"", "backup.every is \"fast\""),
        ("target = \"/b\"\nkeep = 0", "backup.keep is 0"),
    ] {
        let said = refusal(&text(lines));
        assert!(said.contains(says), "{said}");
    }
    let said = refusal(&format!("{GOOD}[storage]\nlog_entries = 3\n"));
    assert!(said.contains("storage.log_entries is 3"), "{said}");
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let said = refusal(&GOOD.replace("mesh =", "mash ="));
    assert!(said.starts_with("x.toml line 5 is not valid (unknown field `mash`"), "{said}");
    assert!(said.ends_with("correct the spelling or remove the key."), "{said}");
}

#[test]
fn a_missing_key_is_named() {
    let said = refusal(&GOOD.replace("mesh = \"demo\"", ""));
    assert!(said.contains("missing field `mesh`"), "{said}");
}

#[test]
fn values_out_of_range_name_the_field() {
    let cases = [
        ("id = 1\nregion", "id = 0\nregion", "node.id is 0"),
        ("id = 1\nregion", "id = 9\nregion", "node.id is 9, but [[members]] lists 1, 2, 3"),
        ("\"eu\"\nmesh", "\"us\"\nmesh", "node.region is \"us\", but [[members]] places node 1"),
        ("\"127.0.0.11:9090\"", "\"localhost\"", "admin.listen is \"localhost\""),
        ("\"127.0.0.11:9090\"", "\"127.0.0.11:7000\"", "admin.listen and api.listen are both"),
        ("control-2.example.net:7000", "control-2", "members (id 2) address is \"control-2\""),
        ("id = 2", "id = 3", "[[members]] lists id 3 twice"),
        ("\"50ms\"", "\"50\"", "timers.tick is \"50\", no duration"),
        ("\"50ms\"", "\"1ms\"", "timers.tick is 1ms"),
        ("tick = \"50ms\"", "election = \"300ms\"", "timers.election (300ms) is less than 8"),
        ("tick = \"50ms\"", "heartbeat = \"10ms\"", "timers.heartbeat (10ms) is shorter"),
    ];
    for (from, to, expected) in cases {
        assert!(GOOD.contains(from), "{from}");
        let said = refusal(&GOOD.replacen(from, to, 1));
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn two_voters_are_refused() {
    let (head, rest) = GOOD.split_once("[[members]]").unwrap();
    let (_, rest) = rest.split_once("[[members]]").unwrap();
    let said = refusal(&format!("{head}[[members]]{rest}"));
    assert!(said.starts_with("[[members]] lists 2 voters: list 1, 3, 5 or 7"), "{said}");
}

#[test]
fn the_example_is_valid() {
    let text = include_str!("../../../deploy/control-plane.toml");
    Config::parse(text, "deploy/control-plane.toml").unwrap();
}
