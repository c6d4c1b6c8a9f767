//! How messages find their transaction (RFC 3261 §17.1.3, §17.2.3, §8.2.2.2).

use bytes::{BufMut, Bytes, BytesMut};

use crate::sip::message::{Method, Request, Response};
use crate::sip::text::Text;
use crate::sip::value::Via;

/// Client transactions: the branch we made, and the method (a CANCEL shares its INVITE's branch).
pub(super) type ClientKey = (Text, Method);

/// Server transactions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ServerKey {
    /// Branch with the magic cookie, sent-by, method.
    Branch { branch: Text, sent_by: String, method: Method },
    /// RFC 2543 clients: Request-URI, From tag, Call-ID, CSeq number, topmost Via, method.
    Legacy(Bytes),
}

impl ServerKey {
    /// The key under which `request` looks for a transaction of `method`.
    /// `via` is the topmost one as it came, before it is stamped.
    pub(super) fn new(request: &Request, via: &Via, method: Method) -> Self {
        if let Some(branch) = via.branch() {
            let host = via.host.to_ascii_lowercase();
            let sent_by = format!("{host}:{}", via.port.unwrap_or(5060));
            return Self::Branch { branch, sent_by, method };
        }
        let headers = &request.headers;
        let mut key = BytesMut::with_capacity(256);
        let number = headers.cseq().map_or(0, |cseq| cseq.number);
        key.put_slice(format!("{}\n{via}\n{number} {method}\n", request.uri).as_bytes());
        key.put_slice(headers.call_id().unwrap_or_default().as_bytes());
        key.put_slice(b"\n");
        key.put_slice(headers.from_tag().unwrap_or_default().as_bytes());
        Self::Legacy(key.freeze())
    }
}

/// The same request by two ways has the same of all this (§8.2.2.2). The Request-URI is ours to
/// add: a proxy that rings two numbers behind us forks, and that is no loop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MergeKey {
    call_id: Text,
    from_tag: Text,
    cseq: u32,
    method: Method,
    uri: String,
}

impl MergeKey {
    /// `None` for a request in a dialog: those are never merged.
    pub(super) fn new(request: &Request) -> Option<Self> {
        if request.is_in_dialog() {
            return None;
        }
        Some(Self {
            call_id: request.headers.call_id()?,
            from_tag: request.headers.from_tag()?,
            cseq: request.headers.cseq()?.number,
            method: request.method.clone(),
            uri: request.uri.to_string(),
        })
    }
}

/// What the ACK to a 2xx has in common with it (§13.2.2.4, §17.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AckKey {
    call_id: Text,
    from_tag: Text,
    to_tag: Text,
    cseq: u32,
}

impl AckKey {
    pub(super) fn of_ack(ack: &Request) -> Option<Self> {
        Self::new(&ack.headers)
    }

    pub(super) fn of_success(response: &Response) -> Option<Self> {
        Self::new(&response.headers)
    }

    fn new(headers: &crate::sip::Headers) -> Option<Self> {
        Some(Self {
            call_id: headers.call_id()?,
            from_tag: headers.from_tag().unwrap_or_default(),
            to_tag: headers.to_tag()?,
            cseq: headers.cseq()?.number,
        })
    }
}
