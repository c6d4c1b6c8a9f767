//! Stories: POPs and scripted phones in virtual time.
//!
//! A script in `testdata/call` is what people do, `----`, then all that happened; `REWRITE=1`
//! writes the lower part anew. After each script nothing may be left in any POP.

mod numbers;
mod phone;
mod random;
mod script;
mod setups;
mod world;

use std::path::Path;

use self::script::play;

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/call");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "scripts are missing");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (input, expected) = text.split_once("----\n").unwrap();
        let output = play(&file.display().to_string(), input);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, format!("{input}----\n{output}")).unwrap();
        } else {
            assert_eq!(output, expected, "{}", file.display());
        }
    }
}

/// What the control plane says of a POP counts only where this one has not seen for itself.
#[test]
fn a_link_that_is_up_counts_more_than_a_replicated_expiry() {
    let call = "alice calls +6561234567 pcmu\nwait 50ms\ncarol answers pcmu\nwait 50ms\n\
                alice acks\nalice hangs up\nwait 50ms\ncarol oks\n";
    let seen = play("link up", &format!("link up\nexpired sin1\n{call}"));
    assert!(seen.contains("fra1 => sin1: setup by carol"), "{seen}");
    let told = play("no link yet", "expired sin1\nalice calls +6561234567 pcmu\nwait 2s\n");
    assert!(told.contains("503 to INVITE") && !told.contains("setup by carol"), "{told}");
}

#[test]
fn equal_inputs_give_equal_traces() {
    let script = "alice calls +6561234567 pcmu,dtmf\nwait 50ms\ncarol rings\ncarol answers pcma\n\
                  wait 50ms\nalice acks\nwait 1s\nalice hangs up\nwait 50ms\ncarol oks\n";
    assert_eq!(play("first", script), play("second", script));
}
