//! Writes by what they come to.

use proto::control::{
    Number, NumberResponse, NumbersChangedResponse, PortOrderResponse, ReservationResponse,
    ResponseHeader, TenantResponse, WriteOptions, WriteResponse,
};
use proto::identity::Identity;
use proto::raft::{command, outcome};

use super::{Api, Failure};

impl Api {
    /// A write and the part of its outcome that `take` finds.
    async fn write_for<T>(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
        take: impl FnOnce(outcome::Kind) -> Option<T>,
    ) -> Result<(ResponseHeader, T), Failure> {
        let (outcome, header) = self.0.cluster.write(caller, options, kind).await?;
        let taken = take(outcome);
        let taken = taken.ok_or_else(|| Failure::internal("a write came to something else"))?;
        Ok((header, taken))
    }

    /// A write that answers nothing but that it is done.
    pub(super) async fn write(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<WriteResponse, Failure> {
        let (_, header) = self.0.cluster.write(caller, options, kind).await?;
        Ok(WriteResponse { header: Some(header) })
    }

    /// A write of one number.
    pub(super) async fn write_number(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<NumberResponse, Failure> {
        let take = |outcome| match outcome {
            outcome::Kind::Number(number) => Some(number),
            outcome::Kind::Numbers(list) => list.numbers.into_iter().next(),
            _ => None,
        };
        let (header, number) = self.write_for(caller, options, kind, take).await?;
        Ok(NumberResponse { header: Some(header), number: Some(number) })
    }

    /// A write of several numbers.
    pub(super) async fn write_numbers(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<(ResponseHeader, Vec<Number>), Failure> {
        let take = |outcome| match outcome {
            outcome::Kind::Numbers(list) => Some(list.numbers),
            _ => None,
        };
        self.write_for(caller, options, kind, take).await
    }

    /// A write of a range.
    pub(super) async fn write_range(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<NumbersChangedResponse, Failure> {
        let take = |outcome| match outcome {
            outcome::Kind::Changed(changed) => Some(changed),
            _ => None,
        };
        let (header, changed) = self.write_for(caller, options, kind, take).await?;
        Ok(NumbersChangedResponse { header: Some(header), changed })
    }

    /// An import.
    pub(super) async fn write_import(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<(ResponseHeader, u32), Failure> {
        let take = |outcome| match outcome {
            outcome::Kind::Imported(imported) => Some(imported),
            _ => None,
        };
        self.write_for(caller, options, kind, take).await
    }

    /// A write of a reservation.
    pub(super) async fn write_reservation(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<ReservationResponse, Failure> {
        let take = |outcome| match outcome {
            outcome::Kind::Reservation(reservation) => Some(reservation),
            _ => None,
        };
        let (header, reservation) = self.write_for(caller, options, kind, take).await?;
        Ok(ReservationResponse { header: Some(header), reservation: Some(reservation) })
    }

    /// A write of a port order.
    pub(super) async fn write_port_order(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<PortOrderResponse, Failure> {
        let take = |outcome| match outcome {
            outcome::Kind::PortOrder(order) => Some(order),
            _ => None,
        };
        let (header, order) = self.write_for(caller, options, kind, take).await?;
        Ok(PortOrderResponse { header: Some(header), order: Some(order) })
    }

    /// A write of a tenant.
    pub(super) async fn write_tenant(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<TenantResponse, Failure> {
        let take = |outcome| match outcome {
            outcome::Kind::Tenant(tenant) => Some(tenant),
            _ => None,
        };
        let (header, tenant) = self.write_for(caller, options, kind, take).await?;
        Ok(TenantResponse { header: Some(header), tenant: Some(tenant) })
    }
}
