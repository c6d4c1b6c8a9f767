//! Why a message was not given to the transaction user, and how often.

/// Builds the enum, its names and the table from one list.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// Why the endpoint dropped or answered a message by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// All of them, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Label for metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// An ACK that belongs to no transaction and no 2xx of ours.
    AckUnmatched = "ack_unmatched";
    /// Answered 416: the scheme of the Request-URI is not sip, sips or tel.
    BadScheme = "bad_scheme";
    /// Answered 505.
    BadVersion = "bad_version";
    /// Answered 481: CANCEL for no INVITE transaction of ours.
    CancelUnmatched = "cancel_unmatched";
    /// Answered 420: Require names an extension that we do not have.
    ExtensionRequired = "extension_required";
    /// CR LF alone, a keep-alive over UDP.
    KeepAlive = "keep_alive";
    /// Answered 482: the same request by another path (RFC 3261 §8.2.2.2).
    Merged = "merged";
    /// A request that does not parse: answered 400 if it has a Via.
    MalformedRequest = "malformed_request";
    /// A response that does not parse: dropped.
    MalformedResponse = "malformed_response";
    /// No start line of SIP at all: dropped.
    NotSip = "not_sip";
    /// Answered 503: too many transactions.
    Overload = "overload";
    /// A response to no transaction of ours: dropped.
    ResponseUnmatched = "response_unmatched";
    /// Answered 413 (the body) or 513 (the rest).
    TooLarge = "too_large";
    /// Answered 483: Max-Forwards was 0.
    TooManyHops = "too_many_hops";
    /// A response with more than one Via, or none: dropped (RFC 3261 §8.1.3.3).
    ViaCount = "via_count";
}

/// What the endpoint did since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Requests given to the transaction user.
    pub requests_received: u64,
    /// Responses given to the transaction user.
    pub responses_received: u64,
    /// Client transactions begun, CANCELs included.
    pub requests_sent: u64,
    /// Retransmissions sent, of requests and responses.
    pub retransmissions_sent: u64,
    /// Retransmissions received and absorbed.
    pub retransmissions_received: u64,
    /// Client transactions that ended by Timer B, F or the CANCEL guard.
    pub timeouts: u64,
    /// Transactions hit by a transport error.
    pub transport_errors: u64,
    /// Final responses to INVITE that nobody acknowledged (Timer H or L).
    pub acks_missing: u64,
    reasons: [u64; Reason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests_received: 0,
            responses_received: 0,
            requests_sent: 0,
            retransmissions_sent: 0,
            retransmissions_received: 0,
            timeouts: 0,
            transport_errors: 0,
            acks_missing: 0,
            reasons: [0; Reason::ALL.len()],
        }
    }
}

impl Counters {
    /// How often `reason` happened.
    pub fn get(&self, reason: Reason) -> u64 {
        self.reasons.get(reason as usize).copied().unwrap_or_default()
    }

    /// Every reason with its count, in declaration order.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().copied().zip(self.reasons.iter().copied())
    }

    pub(super) fn count(&mut self, reason: Reason) {
        if let Some(count) = self.reasons.get_mut(reason as usize) {
            *count += 1;
        }
    }
}
