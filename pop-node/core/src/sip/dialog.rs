//! Dialogs as plain data (RFC 3261 §12).

use std::fmt;

use super::header::HeaderName;
use super::message::{Method, Request, Response};
use super::text::Text;
use super::uri::Uri;
use super::value::{CSeq, NameAddr};

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
#[derive(Clone, PartialEq, Eq)]
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

impl fmt::Debug for Dialog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialog")
            .field("id", &self.id())
            .field("state", &self.state)
            .field("remote_target", &self.remote_target)
            .field("routes", &self.route_set.len())
            .field("local_cseq", &self.local_cseq)
            .field("remote_cseq", &self.remote_cseq)
            .finish_non_exhaustive()
    }
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

    /// The dialog that `response` to our `request` makes: 101 to 2xx with a To tag
    /// (RFC 3261 §12.1.2). A peer that forgot its Contact is reached at the Request-URI.
    pub fn uac(request: &Request, response: &Response) -> Result<Self, DialogError> {
        let headers = &response.headers;
        let target = headers.contact().map_or_else(|| request.uri.clone(), |contact| contact.uri);
        let confirmed = response.is_success();
        Ok(Self {
            state: if confirmed { DialogState::Confirmed } else { DialogState::Early },
            call_id: request.headers.call_id().ok_or(DialogError::Missing("Call-ID"))?,
            local: request.headers.from().ok_or(DialogError::Missing("From"))?,
            remote: headers.to().ok_or(DialogError::Missing("To"))?,
            contact: request.headers.contact().ok_or(DialogError::Missing("Contact"))?,
            remote_target: target,
            route_set: reversed(headers.record_routes()),
            local_cseq: request.headers.cseq().ok_or(DialogError::Missing("CSeq"))?.number,
            remote_cseq: None,
        })
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
        self.local_cseq = self.local_cseq.saturating_add(1);
        self.build(method, self.local_cseq)
    }

    /// Gives a request of ours that is sent again the next CSeq.
    pub fn renumber(&mut self, request: &mut Request) {
        self.local_cseq = self.local_cseq.saturating_add(1);
        let cseq = CSeq { number: self.local_cseq, method: request.method.clone() };
        request.headers.set(HeaderName::CSeq, &cseq);
    }

    /// The ACK to a 2xx for our INVITE with CSeq number `cseq` (RFC 3261 §13.2.2.4).
    pub fn ack(&self, cseq: u32) -> Request {
        self.build(Method::Ack, cseq)
    }

    fn build(&self, method: Method, number: u32) -> Request {
        let refreshes = is_target_refresh(&method);
        let (uri, routes) = self.routing();
        let mut request = Request::new(method.clone(), uri);
        let headers = &mut request.headers;
        for route in &routes {
            headers.push(HeaderName::Route, route);
        }
        headers.push(HeaderName::MaxForwards, 70);
        headers.push(HeaderName::From, &self.local);
        headers.push(HeaderName::To, &self.remote);
        headers.push(HeaderName::CallId, self.call_id.clone());
        headers.push(HeaderName::CSeq, &CSeq { number, method });
        if refreshes {
            headers.push(HeaderName::Contact, &self.contact);
        }
        request
    }

    /// Request-URI and Route. A first hop without `lr` is a strict router: it wants its own URI in
    /// the request line and the target as last route (RFC 3261 §12.2.1.1).
    fn routing(&self) -> (Uri, Vec<NameAddr>) {
        match self.route_set.split_first() {
            Some((first, rest)) if !first.uri.is_loose_router() => {
                let mut routes = rest.to_vec();
                routes.push(NameAddr::new(self.remote_target.clone()));
                let mut uri = first.uri.clone();
                uri.headers = None;
                (uri, routes)
            }
            Some(_) | None => (self.remote_target.clone(), self.route_set.clone()),
        }
    }

    /// Our response to `request` within, or making, this dialog: with our tag, and from 101 to 2xx
    /// with Contact, and Record-Route if it makes the dialog (RFC 3261 §12.1.1).
    pub fn respond(&self, request: &Request, status: u16) -> Response {
        let mut response = Response::to_request(request, status);
        if status == 100 {
            return response;
        }
        response = response.with_to_tag(&self.local.tag().unwrap_or_default());
        if status < 300 && is_target_refresh(&request.method) {
            if !request.is_in_dialog() {
                response.headers.copy(&HeaderName::RecordRoute, &request.headers);
            }
            response.headers.push(HeaderName::Contact, &self.contact);
        }
        response
    }

    /// Our 2xx confirms the dialog.
    pub const fn confirm(&mut self) {
        self.state = DialogState::Confirmed;
    }

    /// Takes a request of the peer in: CSeq must grow (else answer 500); INVITE and UPDATE move the
    /// remote target (RFC 3261 §12.2.2). ACK is let through.
    pub fn accept_request(&mut self, request: &Request) -> Result<(), DialogError> {
        if request.method == Method::Ack {
            return Ok(());
        }
        let number = request.headers.cseq().ok_or(DialogError::Missing("CSeq"))?.number;
        if self.remote_cseq.is_some_and(|last| number <= last) {
            return Err(DialogError::CSeqOrder);
        }
        self.remote_cseq = Some(number);
        if is_target_refresh(&request.method)
            && let Some(contact) = request.headers.contact()
        {
            self.remote_target = contact.uri;
        }
        Ok(())
    }

    /// Takes a response to a request of ours in: the first 2xx to INVITE confirms and sets the route
    /// set anew; a 2xx to INVITE or UPDATE moves the remote target (RFC 3261 §12.2.1.2, §13.2.2.4).
    pub fn update_from_response(&mut self, response: &Response) {
        let Some(method) = response.method() else { return };
        if !response.is_success() || !is_target_refresh(&method) {
            return;
        }
        if let Some(contact) = response.headers.contact() {
            self.remote_target = contact.uri;
        }
        if self.state == DialogState::Early && method == Method::Invite {
            self.route_set = reversed(response.headers.record_routes());
            self.state = DialogState::Confirmed;
        }
    }

    /// The URI whose address the next request is sent to: the first route, else the remote target
    /// (RFC 3261 §8.1.2).
    pub fn next_hop(&self) -> &Uri {
        self.route_set.first().map_or(&self.remote_target, |route| &route.uri)
    }
}

/// INVITE and UPDATE carry a Contact that becomes the remote target (RFC 3261 §12.2, RFC 3311 §5.1).
const fn is_target_refresh(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Update)
}

/// Record-Route as the UAC visits it (RFC 3261 §12.1.2).
fn reversed(mut routes: Vec<NameAddr>) -> Vec<NameAddr> {
    routes.reverse();
    routes
}
