//! Form of number commands.

use proto::control::{
    Block, NumberCompliance, NumberPick, NumberType, PortDirection, PortEvent, Shelf, Tag,
};
use proto::raft::command::Kind;
use proto::raft::{
    ActivateNumber, AllocateNumber, AllocateNumbers, BlockNumbers, CreatePortOrder, ImportNumbers,
    RecordPortEvent, ReserveNumbers, TransferNumber, UpdateNumber, allocate_number,
};

use super::routing::check_candidates;
use super::{Check, IMPORT_MAX, label, number, rules, text};
use crate::state::limits;

/// Most tags of a number, block or tenant.
const TAGS_MAX: usize = 16;

/// Everything about numbers, tenants, porting and compliance.
pub(super) fn check(kind: &Kind) -> Check {
    match kind {
        Kind::ImportNumbers(import) => check_import(import),
        Kind::ImportBlocks(import) => {
            let count = import.blocks.len();
            if count == 0 || count > IMPORT_MAX {
                return Err(format!("blocks has {count} entries: 1 to {IMPORT_MAX}"));
            }
            let mut blocks = import.blocks.iter().enumerate();
            blocks.try_for_each(|(at, block)| {
                check_block(block).map_err(|message| format!("blocks[{at}].{message}"))
            })
        }
        Kind::AllocateNumber(allocate) => check_allocate(allocate),
        Kind::AllocateNumbers(allocate) => check_allocate_many(allocate),
        Kind::ReserveNumbers(ReserveNumbers { tenant, pick, duration_ms }) => {
            label("tenant", tenant)?;
            check_duration(*duration_ms)?;
            check_pick(pick.as_ref())
        }
        Kind::ExtendReservation(extend) => {
            check_reservation(&extend.reservation_id, &extend.tenant)?;
            check_duration(extend.duration_ms)
        }
        Kind::CancelReservation(cancel) => {
            check_reservation(&cancel.reservation_id, &cancel.tenant)
        }
        Kind::CreatePortOrder(create) => check_port(create),
        Kind::RecordPortEvent(event) => check_port_event(event),
        kind => check_one(kind).unwrap_or_else(|| rules::check(kind)),
    }
}

/// Commands about one number, or a run of them.
fn check_one(kind: &Kind) -> Option<Check> {
    Some(match kind {
        Kind::ActivateNumber(ActivateNumber { e164, tenant, compliance, .. }) => {
            owned(e164, tenant).and_then(|()| check_compliance(compliance.as_ref()))
        }
        Kind::RejectNumber(reject) => number(&reject.e164),
        Kind::ReleaseNumber(release) => owned(&release.e164, &release.tenant),
        Kind::SuspendNumber(suspend) => {
            number(&suspend.e164).and_then(|()| check_reason(&suspend.reason))
        }
        Kind::ResumeNumber(resume) => number(&resume.e164),
        Kind::TransferNumber(TransferNumber {
            e164, from_tenant, to_tenant, compliance, ..
        }) => owned(e164, from_tenant)
            .and_then(|()| label("to_tenant", to_tenant))
            .and_then(|()| check_compliance(compliance.as_ref())),
        Kind::UpdateNumber(UpdateNumber { e164, tenant, candidates, tags, .. }) => {
            let candidates = candidates.as_ref().map_or(&[][..], |given| &given.candidates);
            let tags = tags.as_ref().map_or(&[][..], |given| &given.tags);
            owned(e164, tenant)
                .and_then(|()| check_candidates(candidates))
                .and_then(|()| check_tags(tags))
        }
        Kind::BlockNumbers(BlockNumbers { e164, count, reason, shelf, .. }) => run(e164, *count)
            .and_then(|()| check_reason(reason))
            .and_then(|()| shelf.as_ref().map_or(Ok(()), check_shelf)),
        Kind::UnblockNumbers(unblock) => run(&unblock.e164, unblock.count),
        Kind::DecommissionNumbers(decommission) => run(&decommission.e164, decommission.count),
        _ => return None,
    })
}

fn owned(e164: &str, tenant: &str) -> Check {
    number(e164)?;
    label("tenant", tenant)
}

fn run(e164: &str, count: u32) -> Check {
    number(e164)?;
    let most = limits::RUN_MAX;
    if u64::from(count) > most {
        return Err(format!("count is {count}: at most {most}"));
    }
    Ok(())
}

fn check_reason(reason: &str) -> Check {
    if reason.is_empty() {
        return Err("reason is empty: say why".into());
    }
    text("reason", reason, 128)
}

fn check_duration(duration_ms: u64) -> Check {
    let most = limits::RESERVATION_MAX_MS;
    if duration_ms > most {
        return Err(format!("duration_ms is {duration_ms}: at most {most}"));
    }
    Ok(())
}

fn check_reservation(id: &str, tenant: &str) -> Check {
    label("reservation_id", id)?;
    label("tenant", tenant)
}

fn check_import(import: &ImportNumbers) -> Check {
    label("pool", &import.pool)?;
    let count = import.e164.len();
    if count == 0 || count > IMPORT_MAX {
        return Err(format!("{count} numbers in one import: 1 to {IMPORT_MAX}"));
    }
    check_numbers(&import.e164)
}

fn check_numbers(e164: &[String]) -> Check {
    let mut numbers = e164.iter().enumerate();
    numbers.try_for_each(|(at, e164)| {
        number(e164).map_err(|message| format!("number {} {message}", at + 1))
    })
}

fn check_block(block: &Block) -> Check {
    number(&block.first).map_err(|message| format!("first {message}"))?;
    if block.count == 0 {
        return Err("count is 0: at least 1".into());
    }
    let digits = block.first.trim_start_matches('+');
    let last = digits.parse::<u64>().ok().and_then(|first| first.checked_add(block.count - 1));
    if last.is_none_or(|last| last.to_string().len() != digits.len()) {
        return Err(format!("count {} goes beyond the numbers of this length", block.count));
    }
    let shelf = block.shelf.as_ref().ok_or("shelf is missing")?;
    label("shelf.pool", &shelf.pool)?;
    check_shelf(shelf)?;
    check_tags(&block.tags)
}

/// A shelf, or a filter of shelves.
fn check_shelf(shelf: &Shelf) -> Check {
    if !shelf.pool.is_empty() {
        label("shelf.pool", &shelf.pool)?;
    }
    rules::check_country("shelf.country", &shelf.country)?;
    text("shelf.area", &shelf.area, 64)?;
    NumberType::try_from(shelf.r#type)
        .map_err(|_| format!("shelf.type {} is unknown", shelf.r#type))?;
    text("shelf.carrier", &shelf.carrier, 64)
}

pub(super) fn check_tags(tags: &[Tag]) -> Check {
    if tags.len() > TAGS_MAX {
        return Err(format!("tags has {} entries: at most {TAGS_MAX}", tags.len()));
    }
    super::unique("tags", tags.iter().map(|tag| &tag.key))?;
    for tag in tags {
        if tag.key.is_empty() {
            return Err("tags has an empty key".into());
        }
        text("the key of a tag", &tag.key, 64)?;
        text("the value of a tag", &tag.value, 128)?;
    }
    Ok(())
}

fn check_compliance(compliance: Option<&NumberCompliance>) -> Check {
    let Some(given) = compliance else { return Ok(()) };
    let ids = [
        ("bundle_id", &given.bundle_id),
        ("address_id", &given.address_id),
        ("emergency_address_id", &given.emergency_address_id),
    ];
    ids.into_iter().filter(|(_, id)| !id.is_empty()).try_for_each(|(name, id)| label(name, id))
}

fn check_pick(pick: Option<&NumberPick>) -> Check {
    let Some(pick) = pick else { return Ok(()) };
    let most = limits::PICK_MAX;
    if pick.e164.len() > most || usize::try_from(pick.count).is_ok_and(|count| count > most) {
        return Err(format!("pick asks for more than {most} numbers: ask several times"));
    }
    if !pick.e164.is_empty() && (pick.count > 0 || pick.shelf.is_some() || !pick.prefix.is_empty())
    {
        return Err("pick names numbers and describes others: do one of them".into());
    }
    if pick.prefix.len() > 15 || !pick.prefix.bytes().all(|b| b.is_ascii_digit()) {
        return Err("pick.prefix needs 0 to 15 digits, without \"+\"".into());
    }
    check_numbers(&pick.e164)?;
    super::unique("pick.e164", pick.e164.iter())
        .map_err(|_| String::from("pick.e164 has a number twice"))?;
    pick.shelf.as_ref().map_or(Ok(()), check_shelf)
}

fn check_allocate(allocate: &AllocateNumber) -> Check {
    label("tenant", &allocate.tenant)?;
    match &allocate.which {
        Some(allocate_number::Which::E164(e164)) => number(e164)?,
        Some(allocate_number::Which::AnyOfPool(pool)) => label("pool", pool)?,
        None => return Err("name a number (e164) or a pool (any_of_pool)".into()),
    }
    check_candidates(&allocate.candidates)
}

fn check_allocate_many(allocate: &AllocateNumbers) -> Check {
    label("tenant", &allocate.tenant)?;
    if !allocate.reservation_id.is_empty() {
        label("reservation_id", &allocate.reservation_id)?;
        let pick = allocate.pick.as_ref();
        if pick.is_some_and(|pick| pick.e164.is_empty() && *pick != NumberPick::default()) {
            return Err("of a reservation, pick can name numbers only".into());
        }
    }
    check_pick(allocate.pick.as_ref())?;
    check_candidates(&allocate.candidates)?;
    check_tags(&allocate.tags)?;
    check_compliance(allocate.compliance.as_ref())
}

fn check_port(create: &CreatePortOrder) -> Check {
    label("tenant", &create.tenant)?;
    let direction = PortDirection::try_from(create.direction).unwrap_or_default();
    let (count, most) = (create.e164.len(), limits::PICK_MAX);
    if count == 0 || count > most {
        return Err(format!("e164 has {count} entries: 1 to {most}"));
    }
    check_numbers(&create.e164)?;
    text("other_carrier", &create.other_carrier, 64)?;
    match direction {
        PortDirection::Unspecified => Err("direction is neither IN nor OUT".into()),
        PortDirection::In => {
            let shelf = create.shelf.as_ref().ok_or("shelf is missing: where do they go")?;
            label("shelf.pool", &shelf.pool)?;
            check_shelf(shelf)?;
            check_candidates(&create.candidates)
        }
        PortDirection::Out if create.shelf.is_some() || !create.candidates.is_empty() => {
            Err("shelf and candidates are for numbers that come in".into())
        }
        PortDirection::Out => Ok(()),
    }
}

fn check_port_event(event: &RecordPortEvent) -> Check {
    label("port_order_id", &event.port_order_id)?;
    text("reason", &event.reason, 256)?;
    match PortEvent::try_from(event.event) {
        Ok(PortEvent::FocConfirmed) if event.foc_ms == 0 => {
            Err("foc_ms is missing: which date was agreed".into())
        }
        Ok(PortEvent::Unspecified) | Err(_) => Err(format!("event {} is unknown", event.event)),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proto::raft::{ImportBlocks, SuspendNumber};

    use super::*;

    fn block(first: &str, count: u64) -> Block {
        let shelf = Some(Shelf { pool: "p".into(), country: "DE".into(), ..Shelf::default() });
        Block { first: first.into(), count, shelf, ..Block::default() }
    }

    fn import(block: Block) -> Check {
        check(&Kind::ImportBlocks(ImportBlocks { blocks: vec![block] }))
    }

    #[test]
    fn blocks_say_what_is_wrong() {
        assert_eq!(import(block("+49301000000", 1_000_000)), Ok(()));
        let wrong = |block| import(block).expect_err("must be refused");
        assert!(wrong(block("030", 1)).contains("blocks[0].first"));
        assert!(wrong(block("+49301000000", 0)).contains("count"));
        assert!(wrong(block("+49301000000", u64::MAX)).contains("beyond"));
        assert!(wrong(Block { shelf: None, ..block("+49301000000", 1) }).contains("shelf"));
        let tag = Tag { key: "a".into(), value: "b".into() };
        let twice = Block { tags: vec![tag.clone(), tag], ..block("+49301000000", 1) };
        assert!(wrong(twice).contains("twice"));
        let mut nowhere = block("+49301000000", 1);
        nowhere.shelf =
            Some(Shelf { pool: "p".into(), country: "Germany".into(), ..<_>::default() });
        assert!(wrong(nowhere).contains("ISO"));
    }

    #[test]
    fn picks_are_bounded_and_unambiguous() {
        let pick = |pick| check_pick(Some(&pick));
        let named = vec!["+4930901820".to_owned()];
        assert_eq!(pick(NumberPick { e164: named.clone(), ..<_>::default() }), Ok(()));
        assert!(pick(NumberPick { e164: named.clone(), count: 1, ..<_>::default() }).is_err());
        assert!(pick(NumberPick { count: 1_001, ..<_>::default() }).is_err());
        assert!(pick(NumberPick { prefix: "+49".into(), ..<_>::default() }).is_err());
        let twice = [named.clone(), named].concat();
        let message = pick(NumberPick { e164: twice, ..<_>::default() }).unwrap_err();
        assert!(message.contains("twice") && !message.contains("901820"), "{message}");
    }

    #[test]
    fn reasons_are_asked_for() {
        let suspend = |reason: &str| {
            let (e164, reason) = ("+4930901820".into(), reason.into());
            check(&Kind::SuspendNumber(SuspendNumber { e164, reason, expect: None }))
        };
        assert_eq!(suspend("abuse"), Ok(()));
        assert!(suspend("").unwrap_err().contains("reason"));
        assert!(suspend("a\nb").unwrap_err().contains("reason"));
    }
}
