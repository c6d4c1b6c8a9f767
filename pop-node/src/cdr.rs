//! Call records: one JSON object per line in `data_dir/cdr-DATE.jsonl` (UTC date of the end).
//!
//! A thread of its own writes, so that a slow disk delays no call. A record that cannot be
//! written goes to the log as a whole: it is money. Numbers stand in full here, and only here;
//! the file is readable by its owner and group only.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use pop_core::call::{Cdr, CdrRole};
use pop_core::codec::Codec;
use pop_core::media::QualityReport;
use proto::e164::E164;
use proto::id::{PopId, TrunkId};
use serde_json::{Value, json};

use crate::clock::{Clock, date, rfc3339};
use crate::drops::{Drops, Reason};

/// Records that may wait for the disk: ten seconds of the busiest POP.
const QUEUE_MAX: usize = 4_096;

/// Where records go.
pub struct Writer {
    queue: Option<SyncSender<Record>>,
    thread: Option<JoinHandle<()>>,
    clock: Clock,
    drops: Drops,
}

struct Record {
    date: String,
    line: String,
}

impl Writer {
    /// Starts the thread.
    pub fn start(directory: PathBuf, clock: Clock, drops: Drops) -> io::Result<Self> {
        let (queue, records) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("cdr".into()).spawn({
            let drops = drops.clone();
            move || write_all(&directory, &records, &drops)
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), clock, drops })
    }

    /// Writes one record, soon.
    pub fn write(&self, cdr: &Cdr) {
        let ended = self.clock.wall(cdr.ended);
        let line = format!("{}\n", to_json(cdr, &self.clock));
        let record = Record { date: date(ended), line };
        let Some(queue) = &self.queue else { return };
        if let Err(error) = queue.try_send(record) {
            let (std::sync::mpsc::TrySendError::Full(record)
            | std::sync::mpsc::TrySendError::Disconnected(record)) = error;
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

fn lost(record: &Record, drops: &Drops) {
    drops.count(Reason::CdrNotWritten);
    tracing::error!(cdr = record.line.trim_end(), "a call record was not written");
}

fn write_all(directory: &std::path::Path, records: &Receiver<Record>, drops: &Drops) {
    let mut open: Option<(String, File)> = None;
    while let Ok(record) = records.recv() {
        if open.as_ref().is_none_or(|(date, _)| *date != record.date) {
            open = None;
            let path = directory.join(format!("cdr-{}.jsonl", record.date));
            match OpenOptions::new().create(true).append(true).mode(0o640).open(&path) {
                Ok(file) => open = Some((record.date.clone(), file)),
                Err(error) => tracing::error!(path = %path.display(), %error, "cannot open"),
            }
        }
        // One write per line: lines of a process that is killed are whole or absent.
        let written = open.as_mut().map(|(_, file)| file.write_all(record.line.as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            lost(&record, drops);
            open = None;
        }
    }
    if let Some((_, file)) = open
        && let Err(error) = file.sync_all()
    {
        tracing::error!(%error, "call records may not be on disk");
    }
}

fn to_json(cdr: &Cdr, clock: &Clock) -> Value {
    let wall = |at| rfc3339(clock.wall(at));
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

/// What a leg received, in JSON.
fn quality(report: &QualityReport) -> Value {
    let millis = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
    json!({
        "codec": report.codec.map(Codec::name),
        "received": report.received,
        "sent": report.sent,
        "lost": report.lost,
        "late": report.late,
        "jitter_ms": millis(report.jitter),
        "remote_lost": report.remote_lost,
        "remote_jitter_ms": report.remote_jitter.map(millis),
        "round_trip_ms": report.round_trip.map(millis),
        "playout_ms": millis(report.playout_delay),
        "r_factor": report.r_factor,
        "mos": report.mos,
    })
}
