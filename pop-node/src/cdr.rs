//! Call records: one JSON object per line in `data_dir/cdr.jsonl`.
//!
//! A thread of its own writes, so that a slow disk delays no call. A record that cannot be
//! written goes to the log as a whole: it is money. Numbers stand in full here, and only here;
//! the file is readable by its owner and group only.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use pop_core::call::{Cdr, CdrRole};
use pop_core::codec::Codec;
use proto::e164::E164;
use proto::id::{PopId, TrunkId};
use serde_json::{Value, json};

use crate::clock::{Clock, rfc3339};
use crate::drops::{Drops, Reason};
use crate::quality;

/// Records that may wait for the disk: ten seconds of the busiest POP.
const QUEUE_MAX: usize = 4_096;
/// Records written at once.
const BATCH_MAX: usize = 256;

/// Where records go.
pub struct Writer {
    queue: Option<SyncSender<String>>,
    thread: Option<JoinHandle<()>>,
    clock: Clock,
    drops: Drops,
}

impl Writer {
    /// Starts the thread.
    pub fn start(data_dir: &Path, clock: Clock, drops: Drops) -> io::Result<Self> {
        let path = data_dir.join("cdr.jsonl");
        let (queue, records) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("cdr".into()).spawn({
            let drops = drops.clone();
            move || write_all(&path, &records, &drops)
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), clock, drops })
    }

    /// Writes one record, soon.
    pub fn write(&self, cdr: &Cdr) {
        let record = format!("{}\n", to_json(cdr, &self.clock));
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(record) | TrySendError::Disconnected(record)) =
            queue.try_send(record)
        {
            lost(&record, &self.drops);
        }
    }
}

impl Drop for Writer {
    /// Waits until everything is on disk.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It cannot panic: nothing to report.
            let _ = thread.join();
        }
    }
}

fn lost(record: &str, drops: &Drops) {
    drops.count(Reason::CdrNotWritten);
    tracing::error!(cdr = record.trim_end(), "a call record was not written");
}

/// Takes what waits, writes it with one system call, and looks at the path anew each time: a
/// renamed file (logrotate) is followed by a new one.
fn write_all(path: &Path, records: &Receiver<String>, drops: &Drops) {
    while let Ok(first) = records.recv() {
        let batch: Vec<String> =
            std::iter::once(first).chain(records.try_iter().take(BATCH_MAX)).collect();
        let written = append(path, batch.concat().as_bytes());
        if let Err(error) = written {
            tracing::error!(path = %path.display(), %error, "cannot write call records");
            batch.iter().for_each(|record| lost(record, drops));
        }
    }
    if let Err(error) = File::open(path).and_then(|file| file.sync_all())
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(%error, "call records may not be on disk");
    }
}

fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    file.write_all(lines)
}

fn to_json(cdr: &Cdr, clock: &Clock) -> Value {
    let wall = |at| rfc3339(clock.wall(at));
    let quality = |report| quality::report(report, clock);
    json!({
        "call_id": cdr.call_id.to_string(),
        "pop": cdr.pop.as_str(),
        "role": role(cdr.role),
        "peer": cdr.peer.as_ref().map(PopId::as_str),
        "from": cdr.from.as_ref().map(E164::as_str),
        "to": cdr.to.as_str(),
        "trunk_in": cdr.trunk_in.as_ref().map(TrunkId::as_str),
        "trunk_out": cdr.trunk_out.as_ref().map(TrunkId::as_str),
        "started": wall(cdr.started),
        "ringing": cdr.ringing.map(wall),
        "answered": cdr.answered.map(wall),
        "ended": wall(cdr.ended),
        "talk_seconds": cdr.answered.map(|at| cdr.ended.since(at).as_secs_f64()),
        "cause": cdr.cause.name(),
        "status": cdr.status,
        "attempts": cdr.attempts,
        "moved_from": cdr.moved_from.as_ref().map(PopId::as_str),
        "codec_in": cdr.codec_in.map(Codec::name),
        "codec_out": cdr.codec_out.map(Codec::name),
        "quality_in": cdr.quality_in.as_ref().map(quality),
        "quality_out": cdr.quality_out.as_ref().map(quality),
    })
}

/// Which part of the call a POP has, in records and on the status page.
pub const fn role(role: CdrRole) -> &'static str {
    match role {
        CdrRole::Egress => "egress",
        CdrRole::Ingress => "ingress",
        CdrRole::Local => "local",
    }
}

#[cfg(test)]
mod tests {
    use pop_core::call::EndCause;
    use pop_core::media::QualityReport;
    use proto::id::CallId;
    use proto::time::Instant;

    use super::*;

    fn cdr() -> Cdr {
        Cdr {
            call_id: CallId([7; 16]),
            pop: PopId::new("fra1").unwrap(),
            role: CdrRole::Ingress,
            from: None,
            to: E164::parse("+4930123456").unwrap(),
            trunk_in: Some(TrunkId::new("pbx").unwrap()),
            trunk_out: None,
            peer: Some(PopId::new("sin1").unwrap()),
            started: Instant::ZERO,
            ringing: None,
            answered: Some(Instant::from_millis(1)),
            ended: Instant::from_millis(2_501),
            cause: EndCause::CallerHungUp,
            status: 200,
            attempts: 1,
            moved_from: None,
            codec_in: Some(Codec::Opus),
            codec_out: None,
            quality_in: Some(QualityReport { mos: 4.25, ..QualityReport::default() }),
            quality_out: None,
        }
    }

    #[test]
    fn each_record_is_one_line_also_after_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cdr.jsonl");
        let writer = || Writer::start(directory.path(), Clock::start(), Drops::default()).unwrap();
        let first = writer();
        (0..3).for_each(|_| first.write(&cdr()));
        drop(first);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        let line = &lines[0];
        assert_eq!(line["to"], "+4930123456");
        assert_eq!(line["from"], Value::Null);
        assert_eq!(line["cause"], "caller_hung_up");
        assert_eq!(line["talk_seconds"], 2.5);
        assert_eq!(line["quality_in"]["mos"], 4.25);
        assert_eq!(line["quality_in"]["mos_min"], Value::Null, "no 5 s of it");
        std::fs::rename(&path, directory.path().join("cdr.jsonl.1")).unwrap();
        let second = writer();
        second.write(&cdr());
        drop(second);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_record_that_cannot_be_written_is_counted() {
        let drops = Drops::default();
        let nowhere = Path::new("/nonexistent");
        let writer = Writer::start(nowhere, Clock::start(), drops.clone()).unwrap();
        writer.write(&cdr());
        drop(writer);
        assert_eq!(drops.get(Reason::CdrNotWritten), 1);
    }
}
