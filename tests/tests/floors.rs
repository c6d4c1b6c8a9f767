//! Proves the floors of ARCHITECTURE.md: who may depend on whom, and that the cores are pure.
//!
//! A missing dependency is the wall: a core that has no tokio cannot call it. So the whole tree of
//! each pure crate is compared with a list, and a new crate in it needs a line and a reason here.
#![allow(clippy::indexing_slicing, clippy::print_stdout, reason = "a test may panic and speak")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(tests::root())
        .output()
        .expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Crates linked into `package` (features as when it is built alone), without itself.
fn linked(package: &str) -> BTreeSet<String> {
    let tree = cargo(&[
        "tree",
        "-p",
        package,
        "-e",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "-f",
        "{p}",
    ]);
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != package).map(str::to_owned).collect()
}

/// Dependencies between crates of the workspace, of every kind (also build and dev).
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let packages =
        metadata.get("packages").and_then(serde_json::Value::as_array).expect("packages");
    let name = |value: &serde_json::Value| value["name"].as_str().expect("a name").to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let arrows = packages.iter().map(|package| {
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        (name(package), dependencies.iter().map(name).filter(|n| ours.contains(n)).collect())
    });
    arrows.collect()
}

#[test]
fn arrows_point_down_only() {
    let floors: &[(&str, &[&str])] = &[
        ("proto", &[]),
        ("pop-core", &["proto"]),
        ("control-core", &["proto"]),
        ("enroll", &["proto"]),
        ("pop-node", &["enroll", "pop-core", "proto"]),
        ("control-plane", &["control-core", "enroll", "proto"]),
        ("chaos", &["control-core", "pop-core", "proto"]),
        ("tests", &["chaos", "control-core", "pop-core", "proto"]),
    ];
    let arrows = arrows();
    let known: BTreeSet<&str> = floors.iter().map(|(name, _)| *name).collect();
    let real: BTreeSet<&str> = arrows.keys().map(String::as_str).collect();
    assert_eq!(real, known, "a crate without a floor, or a floor without a crate");
    for (name, allowed) in floors {
        for to in &arrows[*name] {
            assert!(allowed.contains(&to.as_str()), "{name} must not depend on {to}");
        }
    }
}

/// What may be linked into every pure crate: proto and what it needs.
const PROTO: &[(&str, &str)] = &[
    ("bytes", "shared buffers"),
    ("prost", "protobuf messages"),
    ("thiserror", "error enums"),
    ("rlibphonenumber", "E.164 parsing with libphonenumber data; the crates below are its own"),
    ("aho-corasick", "regex"),
    ("cfg-if", "macro"),
    ("dashmap", "cache of compiled patterns: iteration order is never seen"),
    ("fast-cat", "strings"),
    ("hashbrown", "dashmap"),
    ("itoa", "numbers to text"),
    ("libc", "declarations only; used by parking_lot_core (futex) and cpufeatures (auxval)"),
    ("lock_api", "dashmap"),
    ("log", "facade, no sink of its own"),
    ("memchr", "search"),
    ("once_cell", "lazy statics"),
    ("parking_lot_core", "locks of dashmap"),
    ("regex", "number patterns"),
    ("regex-automata", "regex"),
    ("regex-syntax", "regex"),
    ("rustc-hash", "hash without a random seed"),
    ("scopeguard", "lock_api"),
    ("smallvec", "parking_lot_core"),
    ("strum", "enum names"),
    ("zeroes_itoa", "numbers to text"),
];

/// SHA-2 and MD5.
const DIGESTS: &[(&str, &str)] = &[
    ("block-buffer", "digest"),
    ("const-oid", "digest"),
    ("cpufeatures", "picks the SHA instructions of this CPU"),
    ("crypto-common", "digest"),
    ("digest", "traits of hash functions"),
    ("hybrid-array", "digest"),
    ("md-5", "SIP digest (RFC 2617)"),
    ("sha2", "SIP digest (RFC 8760), state hash"),
    ("typenum", "digest"),
];

const VOICE: &[(&str, &str)] = &[
    ("audio-codec", "G.722"),
    ("fearless_simd", "audio-codec"),
    ("libm", "floating point without the system's"),
    ("anymap3", "generic_singleton"),
    ("array-init", "easyfft"),
    ("easyfft", "nnnoiseless: plans of transforms, kept for each thread"),
    ("generic_singleton", "easyfft"),
    ("nnnoiseless", "noise suppression"),
    ("num-complex", "rustfft"),
    ("num-integer", "rustfft"),
    ("num-traits", "rustfft"),
    ("opus", "Opus"),
    ("opusic-sys", "libopus, static"),
    ("parking_lot", "generic_singleton: for what is shared by threads, which nothing here is"),
    ("primal-check", "rustfft"),
    ("realfft", "easyfft"),
    ("rustfft", "Fourier transforms"),
    ("serde", "num-complex: traits only"),
    ("serde_core", "serde"),
    ("strength_reduce", "rustfft"),
    ("transpose", "rustfft"),
];

/// Ciphers of SRTP.
const CIPHERS: &[(&str, &str)] = &[
    ("aes", "AES in counter mode"),
    ("aws-lc-rs", "AES-GCM"),
    (
        "aws-lc-sys",
        "aws-lc-rs; its RNG is never asked: keys come from a secret given to `Pop::new`",
    ),
    ("base64", "keys in session descriptions"),
    ("cipher", "aes"),
    ("cpubits", "aes: picks an implementation"),
    ("inout", "cipher"),
    ("sha1", "HMAC-SHA1"),
    ("zeroize", "aws-lc-rs: wipes keys"),
];

/// raft-rs and what it brings.
const RAFT: &[(&str, &str)] = &[
    ("raft", "consensus as a value"),
    ("byteorder", "fxhash"),
    ("erased-serde", "slog"),
    ("fxhash", "raft"),
    ("lazy_static", "raft-proto"),
    ("protobuf", "raft-proto; unused under prost-codec (deny.toml)"),
    ("raft-proto", "its messages"),
    ("serde", "slog"),
    ("serde_core", "slog"),
    ("slog", "raft's logger; ours discards"),
];

/// The one exception of the house: raft-rs draws election timeouts from `rand`. The replica pins
/// them per node, and the simulation proves it (same seed, same trace).
const RAFT_ENTROPY: &[(&str, &str)] = &[
    ("getrandom", "rand"),
    ("ppv-lite86", "rand_chacha"),
    ("rand", "raft"),
    ("rand_chacha", "rand"),
    ("rand_core", "rand"),
    ("zerocopy", "ppv-lite86"),
];

fn assert_linked(package: &str, lists: &[&[(&str, &str)]]) {
    let allowed: BTreeSet<&str> =
        lists.iter().flat_map(|l| l.iter().map(|(name, _)| *name)).collect();
    let real = linked(package);
    let new: Vec<_> = real.iter().filter(|name| !allowed.contains(name.as_str())).collect();
    assert!(
        new.is_empty(),
        "{package} links {new:?}. Could they touch a clock, socket, disk or RNG? Then they belong \
         in a shell; else add them in tests/tests/floors.rs, with the reason"
    );
}

#[test]
fn proto_is_pure() {
    assert_linked("proto", &[PROTO]);
}

#[test]
fn pop_core_is_pure() {
    assert_linked("pop-core", &[&[("proto", "")], PROTO, DIGESTS, CIPHERS, VOICE]);
}

#[test]
fn control_core_is_pure_but_for_the_entropy_of_raft() {
    assert_linked("control-core", &[&[("proto", "")], PROTO, DIGESTS, RAFT, RAFT_ENTROPY]);
}

/// The lists above must not be widened by one of these, whatever the reason.
#[test]
fn no_list_allows_io() {
    let banned = [
        "async-std",
        "chrono",
        "fastrand",
        "getrandom",
        "hickory-resolver",
        "mio",
        "nix",
        "quinn",
        "rand",
        "redb",
        "rustix",
        "rustls",
        "signal-hook",
        "smol",
        "socket2",
        "tempfile",
        "time",
        "tokio",
        "tonic",
        "ureq",
        "uuid",
        "memmap2",
        "io-uring",
    ];
    for (name, _) in [PROTO, DIGESTS, CIPHERS, VOICE, RAFT].into_iter().flatten() {
        assert!(!banned.contains(name), "{name} does IO");
    }
    let product = [linked("pop-node"), linked("control-plane")];
    for name in ["openssl", "native-tls", "ring", "rustls-pemfile", "audiopus_sys", "bincode"] {
        assert!(
            product.iter().all(|crates| !crates.contains(name)),
            "{name} is banned (deny.toml)"
        );
    }
}

/// The test above can fail: shells do link what cores may not.
#[test]
fn shells_link_what_cores_may_not() {
    assert!(linked("pop-node").contains("tokio"));
    assert!(linked("control-plane").contains("rustix"));
}
