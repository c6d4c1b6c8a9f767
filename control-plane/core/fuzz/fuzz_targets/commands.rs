//! Bytes as commands about a few numbers, tenants, reservations and orders.

use proto::control::{
    AddressRule, Block, Candidates, ComplianceRecord, Expect, NumberCompliance, NumberPick,
    NumberPolicy, Requirement, RouteCandidate, Shelf, Tag, Tags, Tenant, Trunk,
};
use proto::raft::command::Kind;
use proto::raft::*;

/// What is left of the input.
struct Reader<'a>(&'a [u8]);

/// As records of a log; time moves on by what the input says.
pub(crate) fn read(bytes: &[u8]) -> Vec<LogRecord> {
    let mut reader = Reader(bytes);
    let (mut records, mut log_time_ms) = (Vec::new(), 1_000);
    while let Some((first, rest)) = reader.0.split_first() {
        reader.0 = rest;
        log_time_ms +=
            [1, 1, 60_000, 3_600_000, 86_400_000, 46 * 86_400_000][usize::from(reader.below(6))];
        let internal = *first == u8::MAX;
        let request_id = if internal { String::new() } else { reader.request(records.len()) };
        let kind = if internal { Kind::AdvanceClock(AdvanceClock {}) } else { reader.kind(*first) };
        let principal = "operator/anna".into();
        let command = Some(Command { request_id, principal, kind: Some(kind) });
        records.push(LogRecord { log_time_ms, command, ..LogRecord::default() });
    }
    records
}

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, most: u8) -> u8 {
        self.byte() % most
    }

    /// Mostly a new one.
    fn request(&mut self, at: usize) -> String {
        match self.byte() {
            old @ 0..8 => format!("r{}", at.saturating_sub(usize::from(old))),
            _ => format!("r{at}"),
        }
    }

    /// Short ones next to each other, some at the edges of their length.
    fn number(&mut self) -> String {
        let n = u64::from(self.byte());
        match n {
            250 => "+999999999999999".into(),
            251 => "0".into(),
            252 => "+9".into(),
            253 => "+99".into(),
            n => format!("+{}", 490 + n % 24 + if n > 200 { 4_410 } else { 0 }),
        }
    }

    fn numbers(&mut self) -> Vec<String> {
        (0..self.below(5)).map(|_| self.number()).collect()
    }

    fn tenant(&mut self) -> String {
        ["", "a", "b", "c"][usize::from(self.below(4))].into()
    }

    fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}-{}", self.below(7))
    }

    fn shelf(&mut self) -> Option<Shelf> {
        let byte = self.byte();
        let of = |values: [&str; 3], shift: u8| values[usize::from((byte >> shift) & 3) % 3].into();
        (byte != 0).then(|| Shelf {
            pool: of(["p", "q", ""], 0),
            country: of(["DE", "FR", ""], 2),
            area: of(["30", "89", ""], 4),
            r#type: i32::from(byte >> 6),
            carrier: String::new(),
        })
    }

    fn pick(&mut self) -> Option<NumberPick> {
        match self.below(5) {
            0 => None,
            1 | 2 => Some(NumberPick { e164: self.numbers(), ..NumberPick::default() }),
            _ => {
                let prefix = ["", "4", "49", "491", "0"][usize::from(self.below(5))].into();
                let (shelf, count) = (self.shelf(), u32::from(self.below(8)));
                Some(NumberPick { e164: vec![], shelf, prefix, count })
            }
        }
    }

    fn expect(&mut self) -> Option<Expect> {
        let byte = self.byte();
        let etag =
            if byte & 8 == 0 { String::new() } else { format!("{}.{}", byte & 3, byte >> 4) };
        (byte > 200).then(|| Expect { generation: u64::from(byte & 7), etag })
    }

    fn compliance(&mut self) -> Option<NumberCompliance> {
        let byte = self.byte();
        let id = |at: u8| if byte & at == 0 { String::new() } else { format!("d-{at}") };
        (byte > 64).then(|| NumberCompliance {
            bundle_id: id(1),
            address_id: id(2),
            emergency_address_id: id(4),
        })
    }

    fn candidates(&mut self) -> Vec<RouteCandidate> {
        let trunk = |id: u8| RouteCandidate { trunk_id: format!("t{id}"), ..<_>::default() };
        match self.below(8) {
            0 => vec![trunk(0)],
            1 => vec![trunk(1), trunk(0)],
            2 => vec![trunk(9)],
            _ => vec![],
        }
    }

    fn tags(&mut self) -> Vec<Tag> {
        let key = |n: u8| Tag { key: format!("k{}", n % 2), value: format!("{n}") };
        (0..self.below(3)).map(key).collect()
    }

    fn kind(&mut self, which: u8) -> Kind {
        match which % 30 {
            0..8 => self.inventory(which % 8),
            8..16 => self.owners(which % 8),
            16..22 => self.orders(which % 6),
            _ => self.rules(which % 8),
        }
    }

    fn inventory(&mut self, which: u8) -> Kind {
        let (e164, count) = (self.number(), u32::from(self.below(9)));
        match which {
            0 => Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164: self.numbers() }),
            1..4 => {
                let block = Block {
                    first: e164,
                    count: u64::from(count) * if which == 3 { 1 << 32 } else { 1 },
                    shelf: self.shelf(),
                    tags: self.tags(),
                    imported_ms: 7,
                };
                let more = Block { first: self.number(), count: 2, ..block.clone() };
                let blocks = if self.below(4) == 0 { vec![block, more] } else { vec![block] };
                Kind::ImportBlocks(ImportBlocks { blocks })
            }
            4 | 5 => {
                let (shelf, expect) = (self.shelf(), self.expect());
                Kind::BlockNumbers(BlockNumbers { e164, count, reason: "r".into(), shelf, expect })
            }
            6 => Kind::UnblockNumbers(UnblockNumbers { e164, count, expect: self.expect() }),
            _ => {
                let expect = self.expect();
                Kind::DecommissionNumbers(DecommissionNumbers { e164, count, expect })
            }
        }
    }

    fn owners(&mut self, which: u8) -> Kind {
        let (e164, tenant) = (self.number(), self.tenant());
        match which {
            0 | 1 => {
                let reservation_id = if which == 0 { String::new() } else { self.id("res") };
                Kind::AllocateNumbers(AllocateNumbers {
                    tenant,
                    pick: self.pick(),
                    reservation_id,
                    candidates: self.candidates(),
                    tags: self.tags(),
                    compliance: self.compliance(),
                    expect: self.expect(),
                })
            }
            2 => {
                let (compliance, expect) = (self.compliance(), self.expect());
                Kind::ActivateNumber(ActivateNumber { e164, tenant, compliance, expect })
            }
            3 => Kind::RejectNumber(RejectNumber { e164, expect: self.expect() }),
            4 => Kind::ReleaseNumber(ReleaseNumber { e164, tenant, expect: self.expect() }),
            5 if tenant == "a" => Kind::ResumeNumber(ResumeNumber { e164, expect: self.expect() }),
            5 => {
                let expect = self.expect();
                Kind::SuspendNumber(SuspendNumber { e164, reason: tenant, expect })
            }
            6 => Kind::TransferNumber(TransferNumber {
                e164,
                from_tenant: tenant,
                to_tenant: self.tenant(),
                expect: self.expect(),
                compliance: self.compliance(),
            }),
            _ => Kind::UpdateNumber(UpdateNumber {
                e164,
                tenant,
                candidates: Some(Candidates { candidates: self.candidates() }),
                tags: Some(Tags { tags: self.tags() }),
                expect: self.expect(),
            }),
        }
    }

    fn orders(&mut self, which: u8) -> Kind {
        let tenant = self.tenant();
        match which {
            0 => {
                let (pick, duration_ms) = (self.pick(), u64::from(self.byte()) << 20);
                Kind::ReserveNumbers(ReserveNumbers { tenant, pick, duration_ms })
            }
            1 => {
                let (reservation_id, duration_ms) = (self.id("res"), u64::from(self.byte()));
                Kind::ExtendReservation(ExtendReservation { reservation_id, tenant, duration_ms })
            }
            2 => {
                let reservation_id = self.id("res");
                Kind::CancelReservation(CancelReservation { reservation_id, tenant })
            }
            3 => Kind::CreatePortOrder(CreatePortOrder {
                direction: i32::from(self.below(4)),
                tenant,
                e164: self.numbers(),
                other_carrier: "other".into(),
                shelf: self.shelf(),
                candidates: self.candidates(),
            }),
            _ => Kind::RecordPortEvent(RecordPortEvent {
                port_order_id: self.id("port"),
                event: i32::from(self.below(9)),
                foc_ms: u64::from(self.byte()) << 26,
                reason: tenant,
                expect: self.expect(),
            }),
        }
    }

    fn rules(&mut self, which: u8) -> Kind {
        let country = ["DE", "FR", ""][usize::from(self.below(3))].to_owned();
        let kind = i32::from(self.below(4));
        match which {
            0 => Kind::PutTenant(PutTenant {
                tenant: Some(Tenant {
                    tenant: self.tenant(),
                    end_user_type: i32::from(self.below(3)),
                    max_numbers: u64::from(self.below(6)),
                    max_reserved: u64::from(self.below(4)),
                    ..Tenant::default()
                }),
                expect: self.expect(),
            }),
            1 => Kind::DeleteTenant(DeleteTenant { tenant: self.tenant(), expect: None }),
            2 => {
                let bits = self.byte();
                let requirement = Some(Requirement {
                    country,
                    r#type: kind,
                    end_user_type: i32::from(bits % 3),
                    address: AddressRule::try_from(i32::from(bits >> 2 & 7))
                        .unwrap_or_default()
                        .into(),
                    bundle: bits & 32 != 0,
                    emergency_address: bits & 64 != 0,
                    deadline_ms: u64::from(bits) << 24,
                    ..Requirement::default()
                });
                Kind::PutRequirement(PutRequirement { requirement, expect: self.expect() })
            }
            3 => {
                let end_user_type = i32::from(self.below(3));
                Kind::DeleteRequirement(RequirementKey { country, r#type: kind, end_user_type })
            }
            4 => {
                let quarantine_ms = Some(u64::from(self.byte()) << 24);
                let policy =
                    NumberPolicy { country, r#type: kind, quarantine_ms, ..<_>::default() };
                Kind::PutNumberPolicy(PutNumberPolicy { policy: Some(policy), expect: None })
            }
            5 => {
                let record = Some(ComplianceRecord {
                    record_id: self.id("d"),
                    tenant: self.tenant(),
                    kind: i32::from(self.below(4)),
                    status: i32::from(self.below(6)),
                    country,
                    r#type: kind,
                    valid_until_ms: u64::from(self.byte()) << 30,
                    ..ComplianceRecord::default()
                });
                Kind::PutComplianceRecord(PutComplianceRecord { record, expect: self.expect() })
            }
            6 => Kind::DeleteComplianceRecord(self.id("d")),
            _ => {
                let trunk_id = format!("t{}", self.below(2));
                if kind == 0 {
                    Kind::DeleteTrunk(trunk_id)
                } else {
                    Kind::PutTrunk(Trunk { trunk_id, ..Trunk::default() })
                }
            }
        }
    }
}
