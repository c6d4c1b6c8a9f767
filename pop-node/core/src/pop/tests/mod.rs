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

#[test]
fn equal_inputs_give_equal_traces() {
    let script = "alice calls +6561234567 pcmu,dtmf\nwait 50ms\ncarol rings\ncarol answers pcma\n\
                  wait 50ms\nalice acks\nwait 1s\nalice hangs up\nwait 50ms\ncarol oks\n";
    assert_eq!(play("first", script), play("second", script));
}
