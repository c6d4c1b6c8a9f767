//! Every metric of a POP: one table of names, kinds, units and meanings.
//!
//! Cores keep plain counters and know no metrics; [`crate::admin`] reads them at each scrape and
//! sets what stands here. `pop_` is the prefix, base units, `_total` for counters.

use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Grows or goes both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name as scraped.
    pub name: &'static str,
    /// Grows or goes both ways.
    pub kind: Kind,
    /// Base unit.
    pub unit: Unit,
    /// Meaning, with the labels in braces.
    pub help: &'static str,
}

impl Metric {
    /// Sets a counter to its total.
    pub fn total(&self, value: u64) {
        metrics::counter!(self.name).absolute(value);
    }

    /// Sets one series of a counter to its total.
    pub fn total_of(&self, label: &'static str, of: impl Into<String>, value: u64) {
        metrics::counter!(self.name, label => of.into()).absolute(value);
    }

    /// Sets a gauge.
    pub fn set(&self, value: f64) {
        metrics::gauge!(self.name).set(value);
    }

    /// Sets one series of a gauge.
    pub fn set_of(&self, label: &'static str, of: impl Into<String>, value: f64) {
        metrics::gauge!(self.name, label => of.into()).set(value);
    }
}

/// Labels of one series.
type Labels<'a> = [(&'static str, &'a str)];

fn owned(labels: &Labels<'_>) -> Vec<metrics::Label> {
    labels.iter().map(|(name, value)| metrics::Label::new(*name, (*value).to_owned())).collect()
}

impl Metric {
    /// Sets one series, with several labels, of a gauge.
    pub fn set_with(&self, labels: &Labels<'_>, value: f64) {
        metrics::gauge!(self.name, owned(labels)).set(value);
    }

    /// Sets one series, with several labels, of a counter to its total.
    pub fn total_with(&self, labels: &Labels<'_>, value: u64) {
        metrics::counter!(self.name, owned(labels)).absolute(value);
    }
}

macro_rules! table {
    ($($const:ident = $kind:ident $name:literal $unit:ident $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $const: Metric =
                Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, help: $help };
        )+

        /// All metrics.
        pub const TABLE: &[Metric] = &[$($const,)+];
    };
}

table! {
    INFO = Gauge "pop_info" Count "Always 1 {pop, region, version}";
    UPTIME = Gauge "pop_uptime_seconds" Seconds "Time since the process started";
    CERTIFICATE_LEFT = Gauge "pop_certificate_left_seconds" Seconds
        "Time until this POP's certificate ends";
    VIEW_REVISION = Gauge "pop_view_revision" Count "Revision of the control plane's view in use";
    VIEW_LIVE = Gauge "pop_view_live" Count "1 while a control node feeds the view, else 0";
    EPOCH = Gauge "pop_epoch" Count "Epoch of the registration; 0 before the first";
    FENCED = Gauge "pop_fenced" Count "1 if a newer process registered as this POP, else 0";
    HALVES_GUARDED = Gauge "pop_guarded_halves" Count
        "Halves of calls of other POPs that this one would take over";
    CAPSULE_BYTES = Gauge "pop_guarded_bytes" Bytes "Their capsules";
    HALVES_UNGUARDED = Gauge "pop_unguarded_halves" Count
        "Answered halves here that no other POP has as they are";
    TAKEOVER_MAX = Gauge "pop_takeover_max_seconds" Seconds
        "The longest time from taking a half over to its peer's answer";
    CALLS = Gauge "pop_calls_active" Count "Calls now";
    MEDIA_LEGS = Gauge "pop_media_legs" Count "Open media legs";
    CALL_EVENTS = Counter "pop_call_events_total" Count "What the call machine counted {event}";
    CALLS_REFUSED = Counter "pop_calls_refused_total" Count
        "Calls and messages refused or dropped before they became a call {reason}";
    ANSWERS_REFUSED = Counter "pop_sdp_answers_refused_total" Count
        "Answers to our offers that were of no use {reason}";
    SIP_REQUESTS_RECEIVED = Counter "pop_sip_requests_received_total" Count
        "Requests that reached the calls";
    SIP_RESPONSES_RECEIVED = Counter "pop_sip_responses_received_total" Count
        "Responses that reached the calls";
    SIP_REQUESTS_SENT = Counter "pop_sip_requests_sent_total" Count "Client transactions begun";
    SIP_RETRANSMISSIONS_SENT = Counter "pop_sip_retransmissions_sent_total" Count
        "Messages sent again";
    SIP_RETRANSMISSIONS_RECEIVED = Counter "pop_sip_retransmissions_received_total" Count
        "Messages received again";
    SIP_TIMEOUTS = Counter "pop_sip_timeouts_total" Count "Client transactions nobody answered";
    SIP_TRANSPORT_ERRORS = Counter "pop_sip_transport_errors_total" Count
        "Transactions ended by a transport error";
    SIP_ACKS_MISSING = Counter "pop_sip_acks_missing_total" Count "Final responses never ACKed";
    SIP_DROPPED = Counter "pop_sip_dropped_messages_total" Count
        "Messages dropped or answered without a call {reason}";
    SIP_TCP_CONNECTIONS = Gauge "pop_sip_tcp_connections" Count "SIP over TCP connections now";
    RTP_RECEIVED = Counter "pop_rtp_received_packets_total" Count "RTP packets from legs";
    RTP_SENT = Counter "pop_rtp_sent_packets_total" Count "RTP packets to legs";
    RTCP_RECEIVED = Counter "pop_rtcp_received_packets_total" Count "RTCP packets from legs";
    RTCP_SENT = Counter "pop_rtcp_sent_packets_total" Count "RTCP packets to legs";
    RTP_DROPPED = Counter "pop_rtp_dropped_packets_total" Count
        "RTP, RTCP and overlay frames dropped {reason}";
    SRTP_OPENED = Counter "pop_srtp_opened_packets_total" Count
        "SRTP packets from legs, checked and decrypted";
    SRTP_PROTECTED = Counter "pop_srtp_protected_packets_total" Count
        "SRTP packets to legs, encrypted";
    SRTCP_OPENED = Counter "pop_srtcp_opened_packets_total" Count
        "SRTCP packets from legs, checked and decrypted";
    SRTCP_PROTECTED = Counter "pop_srtcp_protected_packets_total" Count
        "SRTCP packets to legs, encrypted";
    TRANSCODED = Counter "pop_transcoded_packets_total" Count "Packets encoded by transcoding";
    SUPPRESSED = Counter "pop_noise_suppressed_frames_total" Count
        "Frames of 10 ms whose noise was suppressed";
    SUPPRESSION_SKIPPED = Counter "pop_noise_suppression_skipped_frames_total" Count
        "Frames of 10 ms left noisy because the media thread was too busy";
    REPAIRED = Counter "pop_repaired_frames_total" Count
        "Lost frames played from the copy in the next packet (Opus FEC)";
    OPUS_COMPLEXITY = Gauge "pop_opus_complexity" Count
        "libopus complexity in use, 0 to 10: falls when the media thread is busy";
    CONCEALED = Counter "pop_concealed_frames_total" Count "Frames made up for missing ones";
    RTP_LOST = Counter "pop_rtp_lost_packets_total" Count "RTP packets of legs that never came";
    SILENCES = Counter "pop_silent_legs_total" Count
        "Legs that were silent for 10 s though their peers may send {cause}";
    RATINGS = Counter "pop_rated_intervals_total" Count
        "5 s of a leg, a stream from another POP, or a peer's ear, by MOS (good: 4.2 and more, fair: 4.0, poor: 3.6, bad: 2.6) {of, rating}";
    DATAGRAMS_RECEIVED = Counter "pop_overlay_received_datagrams_total" Count
        "Overlay datagrams received";
    DATAGRAMS_SENT = Counter "pop_overlay_sent_datagrams_total" Count "Overlay datagrams sent";
    FRAMES_RECEIVED = Counter "pop_overlay_received_frames_total" Count "Overlay frames received";
    FRAMES_SENT = Counter "pop_overlay_sent_frames_total" Count "Overlay frames sent";
    SHELL_DROPPED = Counter "pop_shell_dropped_total" Count
        "Dropped between socket and core {reason}";
    LINK_UP = Gauge "pop_link_up" Count "1 while the link to the peer is up, else 0 {peer}";
    LINK_RTT = Gauge "pop_link_rtt_seconds" Seconds "Round trip by QUIC {peer}";
    LINK_RECEIVED = Counter "pop_link_received_datagrams_total" Count
        "Datagrams from the peer {peer}";
    LINK_LOST = Gauge "pop_link_lost_datagrams" Count
        "Datagrams from the peer that did not arrive {peer}";
    COPIES_RECEIVED = Counter "pop_overlay_received_copies_total" Count
        "Overlay datagrams whose frames another path had brought before";
    DATAGRAMS_PASSED = Counter "pop_overlay_passed_datagrams_total" Count
        "Overlay datagrams passed on from one POP to another";
    PATH_GOOD = Gauge "pop_path_good" Count "1 if the path to the peer carries, else 0 {peer, path}";
    PATH_R = Gauge "pop_path_r_factor" Count
        "E-model R (G.107) of a G.711 call by this path {peer, path}";
    PATH_RTT = Gauge "pop_path_rtt_seconds" Seconds "Round trip by probes {peer, path}";
    PATH_LOSS = Gauge "pop_path_loss_ratio" Count
        "Share lost towards the peer in the last seconds {peer, path}";
    PATH_JITTER = Gauge "pop_path_jitter_seconds" Seconds
        "Interarrival jitter at the peer {peer, path}";
    PATH_QUEUEING = Gauge "pop_path_queueing_seconds" Seconds
        "One-way delay to the peer above the shortest of late {peer, path}";
    PATH_CHANGES = Counter "pop_path_changes_total" Count
        "Changes of the route to the peer {peer, reason}";
    PATH_RISK = Gauge "pop_path_bgp_risk" Count
        "R that BGP holds against the path {peer, path}";
    PATH_DRAINED = Gauge "pop_path_drained" Count
        "1 if BGP says that the path is to be left, else 0 {peer, path}";
    BGP_FEED_UP = Gauge "pop_bgp_feed_up" Count
        "1 while the router tells and it makes sense; else 0: measurement alone chooses {router}";
    BGP_DISTRUSTS = Counter "pop_bgp_distrusts_total" Count
        "How often what a router told of a neighbor was no longer believed {router, reason}";
    BGP_NEIGHBOR_UP = Gauge "pop_bgp_neighbor_up" Count
        "1 while the router's BGP session with the upstream is up, else 0 {router, neighbor}";
    BGP_NEIGHBOR_DOWNS = Counter "pop_bgp_neighbor_downs_total" Count
        "How often that session went down {router, neighbor}";
    BGP_ROUTES = Gauge "pop_bgp_routes" Count
        "Routes kept: those that cover an address of interest {router, neighbor}";
    BGP_ADDRESSES = Gauge "pop_bgp_addresses" Count "Addresses of interest";
    BGP_ROUTE_CHANGES = Counter "pop_bgp_route_changes_total" Count
        "How often an upstream's route to an address of interest went another way";
    BGP_WITHDRAWALS = Counter "pop_bgp_withdrawals_total" Count
        "How often an upstream had no route to an address of interest any more";
    BMP_MESSAGES = Counter "pop_bmp_messages_total" Count "BMP messages of routers";
    BMP_IGNORED = Counter "pop_bmp_ignored_total" Count
        "What of them was of no use {router, reason}";
    BMP_HANGUPS = Counter "pop_bmp_hangups_total" Count
        "Connections of routers that ended, or were refused {reason}";
    RPKI_CACHE_UP = Gauge "pop_rpki_cache_up" Count
        "1 for the RPKI cache that is connected; of several all but one are 0 {cache}";
    RPKI_CACHE_LEFT = Counter "pop_rpki_cache_left_total" Count
        "Connections to RPKI caches that ended, or did not come about {reason}";
    RPKI_RECORDS = Gauge "pop_rpki_records" Count
        "Records (VRPs) of RPKI kept: those that cover an address of interest";
    RPKI_INVALID = Gauge "pop_rpki_invalid_ways" Count
        "Ways to addresses of interest whose route's origin RPKI does not allow";
    LOG_LOST = Counter "pop_log_lines_lost_total" Count
        "Lines of the log that found no room: who reads it, or its disk, is too slow";
    LINK_JITTER = Gauge "pop_link_jitter_seconds" Seconds "Interarrival jitter {peer}";
}

/// Makes the recorder this process's own and describes the table.
pub fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    for metric in TABLE {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
        }
    }
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_unit() {
        for metric in TABLE {
            assert!(metric.name.starts_with("pop_"), "{}", metric.name);
            assert_eq!(
                metric.kind == Kind::Counter,
                metric.name.ends_with("_total"),
                "{}",
                metric.name
            );
            if matches!(metric.unit, Unit::Seconds) {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
        }
    }
}
