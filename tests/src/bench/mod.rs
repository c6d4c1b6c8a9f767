//! Benchmarks: measured figures beside a peer's or a bound, in the same run.

mod control;
mod feed;
mod guarding;
mod latency;
mod load;
mod media;
mod memory;
mod micro;
mod paths;
mod poor;
mod row;
mod setup;
mod sip;
mod survive;
mod table;
mod voice;
mod withdrawn;

use anyhow::Result;

pub use table::{Figure, Table, Target};

/// Name, and what it measures.
pub const BENCHES: [(&str, &str); 7] = [
    (
        "control",
        "the control plane beside etcd (about 11 min, as root; [--quick] writes allocate reads watchers size leader region)",
    ),
    (
        "media",
        "G.711 relayed beside rtpengine and bare forwarders, and between two POPs: CPU, loss, latency, memory (about 20 min; [--quick] [relay-500 relay-900 shared-500 shared-900 srtp-800 threads two-pops-100 two-pops-1000 churn])",
    ),
    ("mesh", "set-up time, 200 calls across two POPs, added latency, idle memory (about 3 min)"),
    (
        "micro",
        "single steps of the media plane, CPU of one thread: relay, SRTP, codecs, noise suppression (about 20 s); beside each median the least",
    ),
    (
        "paths",
        "what calls hear when an upstream falls silent, is withdrawn in BGP, loses or flaps, how they sound, and what a full BGP table and a mesh of 200 POPs cost (about 13 min; [--quick] [silent withdrawn loss sound clean overhead flap feed row poor])",
    ),
    (
        "survive",
        "calls through the loss of POPs, regions and the control plane: the drills (about 2 h; [--quick] about 8 min; [kill silent region leader pause upstream control drain restart cost]); pages in tests/out/survive",
    ),
    ("voice", "PESQ of recorded calls with and without loss, cost of transcoding (about 4 min)"),
];

/// Runs a benchmark; `None`: no such name.
pub async fn run(name: &str, arguments: &[String]) -> Option<Result<Table>> {
    match name {
        "control" => Some(control::control(arguments).await),
        "mesh" => Some(mesh().await),
        "paths" => Some(paths::run(arguments).await),
        "micro" => Some(micro::run()),
        "survive" => Some(survive::run(arguments).await),
        "voice" => Some(voice::run().await),
        "media" => Some(media::run(arguments).await),
        _ => None,
    }
}

/// Processes that benchmarks start from their own binary; `None`: no such process.
pub fn process(name: &str, arguments: &[String]) -> Option<Result<()>> {
    let kind = arguments.first().map_or("", String::as_str);
    (name == media::BARE).then(|| media::bare(kind))
}

async fn mesh() -> Result<Table> {
    let mut table = Table::new("mesh");
    memory::idle(&mut table).await?;
    setup::one_region(&mut table).await?;
    setup::two_pops(&mut table).await?;
    latency::two_pops(&mut table).await?;
    load::two_pops(&mut table).await?;
    Ok(table)
}

/// The value below which `share` of the sorted values lie.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a short list"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
