//! What happens to a number of a tenant.

use proto::control::{Expect, NumberCompliance, NumberState};
use proto::raft::{
    ActivateNumber, Reason, RejectNumber, Rejected, ReleaseNumber, ResumeNumber, SuspendNumber,
    TransferNumber, UpdateNumber, outcome,
};

use super::allocate::sorted;
use super::record::{NumberRecord, in_use};
use super::store::{Found, parse};
use crate::state::compliance::Check;
use crate::state::{Answer, State, Step, Store, rejected};

impl<S: Store> State<S> {
    /// The number, if it is as the caller believes, in one of these states.
    pub(crate) fn expected(
        &mut self,
        e164: &str,
        expect: Option<&Expect>,
        (states, so): (&[NumberState], &str),
        now_ms: u64,
        step: &mut Step,
    ) -> Result<Found, Rejected> {
        let found = self.current(parse(e164)?, now_ms, step)?;
        found.must_match(expect)?;
        found.must_be(states, so)?;
        Ok(found)
    }

    fn must_own(&self, found: &Found, tenant: &str) -> Result<(), Rejected> {
        if found.record.tenant == self.tenant_id(tenant) {
            return Ok(());
        }
        let message = format!("{} and belongs to another tenant", found.says());
        Err(rejected(Reason::NotOwner, message))
    }

    fn change(&mut self, found: &Found, record: NumberRecord, step: &mut Step) -> Answer {
        Ok(outcome::Kind::Number(self.write_and_view(found, record, step)))
    }

    /// PENDING → ACTIVE.
    pub(crate) fn activate_number(
        &mut self,
        activate: &ActivateNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let states = (&[NumberState::Pending][..], "activated");
        let found =
            self.expected(&activate.e164, activate.expect.as_ref(), states, now_ms, step)?;
        self.must_own(&found, &activate.tenant)?;
        let compliance = activate.compliance.clone().or(found.record.compliance.clone());
        let tenant = found.record.tenant;
        self.check_compliance(tenant, compliance.as_ref())?;
        let check = Check { tenant, shelf: found.shelf, compliance: compliance.as_ref(), now_ms };
        if let Some(unmet) = self.unmet(&check) {
            return Err(unmet.refusal(&found));
        }
        let record = NumberRecord {
            state: NumberState::Active.into(),
            until_ms: 0,
            compliance: compliance.filter(|c| *c != NumberCompliance::default()),
            ..found.record.clone()
        };
        self.change(&found, record, step)
    }

    /// PENDING → AVAILABLE.
    pub(crate) fn reject_number(
        &mut self,
        reject: &RejectNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let states = (&[NumberState::Pending][..], "rejected");
        let found = self.expected(&reject.e164, reject.expect.as_ref(), states, now_ms, step)?;
        let record = found.record.moved(NumberState::Available);
        self.change(&found, record, step)
    }

    /// ACTIVE, SUSPENDED → QUARANTINE; PENDING → AVAILABLE.
    pub(crate) fn release_number(
        &mut self,
        release: &ReleaseNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let from = [NumberState::Active, NumberState::Suspended, NumberState::Pending];
        let states = (&from[..], "released");
        let found = self.expected(&release.e164, release.expect.as_ref(), states, now_ms, step)?;
        self.must_own(&found, &release.tenant)?;
        // One that never was in use need not rest.
        let record = if found.state() == NumberState::Pending {
            found.record.moved(NumberState::Available)
        } else {
            self.rested(&found, now_ms)
        };
        self.change(&found, record, step)
    }

    /// ACTIVE → SUSPENDED.
    pub(crate) fn suspend_number(
        &mut self,
        suspend: &SuspendNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let states = (&[NumberState::Active][..], "suspended");
        let found = self.expected(&suspend.e164, suspend.expect.as_ref(), states, now_ms, step)?;
        let record = NumberRecord {
            state: NumberState::Suspended.into(),
            reason: suspend.reason.clone(),
            ..found.record.clone()
        };
        self.change(&found, record, step)
    }

    /// SUSPENDED → ACTIVE.
    pub(crate) fn resume_number(
        &mut self,
        resume: &ResumeNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let states = (&[NumberState::Suspended][..], "resumed");
        let found = self.expected(&resume.e164, resume.expect.as_ref(), states, now_ms, step)?;
        let record = NumberRecord {
            state: NumberState::Active.into(),
            reason: String::new(),
            ..found.record.clone()
        };
        self.change(&found, record, step)
    }

    /// ACTIVE → ACTIVE of another tenant.
    pub(crate) fn transfer_number(
        &mut self,
        transfer: &TransferNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let states = (&[NumberState::Active][..], "transferred");
        let found =
            self.expected(&transfer.e164, transfer.expect.as_ref(), states, now_ms, step)?;
        self.must_own(&found, &transfer.from_tenant)?;
        if transfer.from_tenant == transfer.to_tenant {
            let message = format!("{} and belongs to this tenant already", found.says());
            return Err(rejected(Reason::Invalid, message));
        }
        let tenant = self.tenant_slot(&transfer.to_tenant)?;
        self.check_quota(tenant, 1, 0)?;
        let compliance = transfer.compliance.as_ref();
        self.check_compliance(tenant, compliance)?;
        if let Some(unmet) = self.unmet(&Check { tenant, shelf: found.shelf, compliance, now_ms }) {
            return Err(unmet.refusal(&found));
        }
        self.enter_tenant(&transfer.to_tenant, tenant);
        let record = NumberRecord {
            tenant,
            compliance: transfer.compliance.clone().filter(|c| *c != NumberCompliance::default()),
            ..found.record.moved(NumberState::Active)
        };
        self.change(&found, record, step)
    }

    /// Routes and tags.
    pub(crate) fn update_number(
        &mut self,
        update: &UpdateNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let found = self.current(parse(&update.e164)?, now_ms, step)?;
        found.must_match(update.expect.as_ref())?;
        if !in_use(found.state()) {
            let message = format!("{}: only a number in use can be changed", found.says());
            return Err(rejected(Reason::IllegalTransition, message));
        }
        self.must_own(&found, &update.tenant)?;
        let mut record = found.record.clone();
        if let Some(given) = &update.candidates {
            self.check_candidates(&given.candidates)?;
            record.candidates.clone_from(&given.candidates);
        }
        if let Some(given) = &update.tags {
            record.tags = sorted(&given.tags);
        }
        self.change(&found, record, step)
    }
}
