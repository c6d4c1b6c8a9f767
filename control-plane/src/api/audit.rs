//! `Audit`: the rows of the log that are kept, in order.

use control_core::replica::Replica;
use proto::control::audit_server::Audit;
use proto::control::{ListAuditRequest, ListAuditResponse};
use tonic::Request;

use super::read::Reads as _;
use super::{Answer, Api, Failure, answer, authorise};

/// Rows of a page, unless asked otherwise.
const PAGE: usize = 1_000;
/// Rows of a page at most: below what a client takes in one message.
const PAGE_MAX: usize = 5_000;

#[tonic::async_trait]
impl Audit for Api {
    async fn list(&self, request: Request<ListAuditRequest>) -> Answer<ListAuditResponse> {
        answer("Audit.List", async {
            let (_, request) = authorise(request)?;
            let limit = match usize::try_from(request.page_size).unwrap_or(usize::MAX) {
                0 => PAGE,
                asked if asked <= PAGE_MAX => asked,
                _ => return Err(Failure::invalid(format!("page_size is more than {PAGE_MAX}"))),
            };
            let after = request.after;
            let look = move |replica: &Replica| {
                let state = replica.state();
                let (sequence, hash) = state.audit_head();
                let rows: Vec<_> = state.audit_rows(after).take(limit).collect();
                (rows, sequence, hash.to_vec())
            };
            let read = self.0.cluster.read(request.freshness()?, look).await?;
            let ((rows, head_sequence, head_hash), header) = read;
            Ok(ListAuditResponse { header: Some(header), rows, head_sequence, head_hash })
        })
        .await
    }
}
