//! Dialogs as plain data (RFC 3261 §12).

use std::fmt;

use super::header::HeaderName;
use super::message::{Method, Request, Response};
use super::text::Text;
use super::uri::Uri;
use super::value::NameAddr;

/// Early until a 2xx, then confirmed (RFC 3261 §12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialogState {
    /// A provisional response with a tag made it.
    Early,
    /// A 2xx made or confirmed it.
    Confirmed,
}

/// What identifies a dialog at one end (RFC 3261 §12).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogId {
    /// Call-ID.
    pub call_id: Text,
    /// Our tag.
    pub local_tag: Text,
    /// The peer's tag; empty for a peer of RFC 2543 times.
    pub remote_tag: Text,
}

impl DialogId {
    /// The dialog that a received request is meant for; `None` if it is outside of any.
    pub fn of_request(request: &Request) -> Option<Self> {
        Some(Self {
            call_id: request.headers.call_id()?,
            local_tag: request.headers.to_tag()?,
            remote_tag: request.headers.from_tag().unwrap_or_default(),
        })
    }

    /// The dialog that a received response belongs to; `None` without a To tag.
    pub fn of_response(response: &Response) -> Option<Self> {
        Some(Self {
            call_id: response.headers.call_id()?,
            local_tag: response.headers.from_tag().unwrap_or_default(),
            remote_tag: response.headers.to_tag()?,
        })
    }
}

impl fmt::Debug for DialogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DialogId({}/{})", self.local_tag, self.remote_tag)
    }
}

/// Why a request or response does not fit a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialogError {
    /// CSeq is not above the last one: answer 500 (RFC 3261 §12.2.2).
    #[error("CSeq out of order")]
    CSeqOrder,
    /// A header that makes the dialog is missing or malformed: answer 400.
    #[error("header missing: {0:?}")]
    Missing(&'static str),
}

/// One side's view of a dialog: all of it is data, to be moved elsewhere if need be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    /// Early or confirmed.
    pub state: DialogState,
    /// Call-ID.
    pub call_id: Text,
    /// Our address, with our tag: From of our requests.
    pub local: NameAddr,
    /// The peer's address, with its tag if it has one: To of our requests.
    pub remote: NameAddr,
    /// Contact we give.
    pub contact: NameAddr,
    /// Where requests go: the peer's Contact.
    pub remote_target: Uri,
    /// Proxies to visit, first hop first.
    pub route_set: Vec<NameAddr>,
    /// CSeq of our last request.
    pub local_cseq: u32,
    /// CSeq of the peer's last request.
    pub remote_cseq: Option<u32>,
}

impl Dialog {
    /// The dialog that our response to `request` makes (RFC 3261 §12.1.1).
    pub fn uas(
        request: &Request,
        local_tag: &Text,
        contact: NameAddr,
    ) -> Result<Self, DialogError> {
        let headers = &request.headers;
        let to = headers.to().ok_or(DialogError::Missing("To"))?;
        Ok(Self {
            state: DialogState::Early,
            call_id: headers.call_id().ok_or(DialogError::Missing("Call-ID"))?,
            local: to.with_tag(local_tag.clone()),
            remote: headers.from().ok_or(DialogError::Missing("From"))?,
            contact,
            remote_target: headers.contact().ok_or(DialogError::Missing("Contact"))?.uri,
            route_set: headers.record_routes(),
            local_cseq: 0,
            remote_cseq: headers.cseq().map(|cseq| cseq.number),
        })
    }

    /// The dialog that `response` to our `request` makes: 101 to 2xx with a To tag and a Contact
    /// (RFC 3261 §12.1.2).
    pub fn uac(request: &Request, response: &Response) -> Result<Self, DialogError> {
        let _ = (request, response);
        Err(DialogError::Missing("To"))
    }

    /// Identifier.
    pub fn id(&self) -> DialogId {
        DialogId {
            call_id: self.call_id.clone(),
            local_tag: self.local.tag().unwrap_or_default(),
            remote_tag: self.remote.tag().unwrap_or_default(),
        }
    }

    /// The next request of ours: Request-URI, Route, From, To, Call-ID, CSeq + 1, Max-Forwards,
    /// Contact where it belongs. Not for ACK and CANCEL (RFC 3261 §12.2.1.1).
    pub fn request(&mut self, method: Method) -> Request {
        self.local_cseq += 1;
        Request::new(method, self.remote_target.clone())
    }

    /// The ACK to a 2xx for our INVITE with CSeq number `cseq` (RFC 3261 §13.2.2.4).
    pub fn ack(&self, cseq: u32) -> Request {
        let _ = cseq;
        Request::new(Method::Ack, self.remote_target.clone())
    }

    /// Our response to `request` within, or making, this dialog: with our tag, Contact, and
    /// Record-Route where they belong (RFC 3261 §12.1.1).
    pub fn respond(&self, request: &Request, status: u16) -> Response {
        let tag = self.local.tag().unwrap_or_default();
        let mut response = Response::to_request(request, status).with_to_tag(&tag);
        response.headers.push(HeaderName::Contact, &self.contact);
        response
    }

    /// Takes a request of the peer in: CSeq must grow (else answer 500); INVITE and UPDATE move the
    /// remote target (RFC 3261 §12.2.2). ACK is let through.
    pub fn accept_request(&mut self, request: &Request) -> Result<(), DialogError> {
        let _ = request;
        Ok(())
    }

    /// Takes a response to a request of ours in: a 2xx confirms; a 2xx to INVITE or UPDATE moves
    /// the remote target (RFC 3261 §12.2.1.2, §13.2.2.4).
    pub fn update_from_response(&mut self, response: &Response) {
        let _ = response;
    }

    /// The URI whose address the next request is sent to: the first route, else the remote target
    /// (RFC 3261 §8.1.2).
    pub fn next_hop(&self) -> &Uri {
        self.route_set.first().map_or(&self.remote_target, |route| &route.uri)
    }
}
