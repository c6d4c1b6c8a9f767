//! What each command and each read of numbers is about.

use proto::control::{NumberPick, Shelf};
use proto::numbering;
use proto::raft::allocate_number::Which;
use proto::raft::command::Kind;

use super::Key;
use crate::state::NumberQuery;
use crate::state::numbers::key;

/// What a command is about: what is not of numbers, the mesh has once. Malformed parts are left
/// out: they are refused for that.
pub fn keys(kind: &Kind) -> Vec<Key> {
    match kind {
        Kind::AdvanceClock(_)
        | Kind::ChangeMembers(_)
        | Kind::FoundMembers(_)
        | Kind::HashCheck(_)
        | Kind::InitCluster(_)
        | Kind::RecordReads(_)
        | Kind::SetFeatureLevel(_) => vec![Key::Here],
        kind => of_numbers(kind),
    }
}

fn of_numbers(kind: &Kind) -> Vec<Key> {
    match kind {
        Kind::ImportNumbers(import) => several(&import.e164),
        Kind::ImportBlocks(import) => {
            let blocks = import.blocks.iter();
            blocks.filter_map(|block| run(&block.first, block.count)).collect()
        }
        Kind::AllocateNumber(allocate) => match &allocate.which {
            Some(Which::E164(e164)) => of_number(e164).into_iter().collect(),
            // A pool may have numbers of any country.
            Some(Which::AnyOfPool(_)) | None => vec![Key::AnyNumber],
        },
        Kind::AllocateNumbers(allocate) if !allocate.reservation_id.is_empty() => {
            let named = allocate.pick.as_ref().map_or(&[][..], |pick| &pick.e164);
            several(named).into_iter().chain(of_id(&allocate.reservation_id)).collect()
        }
        Kind::AllocateNumbers(allocate) => picked(allocate.pick.as_ref()),
        Kind::ReserveNumbers(reserve) => picked(reserve.pick.as_ref()),
        Kind::ExtendReservation(extend) => of_id(&extend.reservation_id).into_iter().collect(),
        Kind::CancelReservation(cancel) => of_id(&cancel.reservation_id).into_iter().collect(),
        Kind::CreatePortOrder(create) => several(&create.e164),
        Kind::RecordPortEvent(event) => of_id(&event.port_order_id).into_iter().collect(),
        kind => of_run(kind),
    }
}

/// About one number, or a run of them.
fn of_run(kind: &Kind) -> Vec<Key> {
    let key = match kind {
        Kind::ActivateNumber(activate) => of_number(&activate.e164),
        Kind::RejectNumber(reject) => of_number(&reject.e164),
        Kind::ReleaseNumber(release) => of_number(&release.e164),
        Kind::SuspendNumber(suspend) => of_number(&suspend.e164),
        Kind::ResumeNumber(resume) => of_number(&resume.e164),
        Kind::TransferNumber(transfer) => of_number(&transfer.e164),
        Kind::UpdateNumber(update) => of_number(&update.e164),
        Kind::BlockNumbers(block) => run(&block.e164, block.count.into()),
        Kind::UnblockNumbers(unblock) => run(&unblock.e164, unblock.count.into()),
        Kind::DecommissionNumbers(numbers) => run(&numbers.e164, numbers.count.into()),
        _ => Some(Key::Mesh),
    };
    key.into_iter().collect()
}

/// A number; `None` when it is none.
pub fn of_number(e164: &str) -> Option<Key> {
    key::parse(e164).map(|number| Key::Numbers(number, number))
}

/// A reservation or port order ("res-7", "port-7"); `None` when it is no such id.
pub fn of_id(id: &str) -> Option<Key> {
    id.rsplit_once('-').and_then(|(_, sequence)| sequence.parse().ok()).map(Key::Sequence)
}

/// What a search may find.
pub fn of_query(query: &NumberQuery<'_>) -> Key {
    somewhere(query.prefix.unwrap_or_default(), query.country.unwrap_or_default())
}

fn several(e164: &[String]) -> Vec<Key> {
    e164.iter().filter_map(|e164| of_number(e164)).collect()
}

fn run(first: &str, count: u64) -> Option<Key> {
    let first = key::parse(first)?;
    Some(Key::Numbers(first, first.saturating_add(count.saturating_sub(1))))
}

fn picked(pick: Option<&NumberPick>) -> Vec<Key> {
    let Some(pick) = pick else { return vec![Key::AnyNumber] };
    if !pick.e164.is_empty() {
        return several(&pick.e164);
    }
    let country = pick.shelf.as_ref().map_or("", |shelf: &Shelf| &shelf.country);
    vec![somewhere(&pick.prefix, country)]
}

/// Digits say more than the country, which has one calling code.
fn somewhere(prefix: &str, country: &str) -> Key {
    if let Some(digits) = key::parse(&format!("+{prefix}")) {
        return Key::Prefix(digits);
    }
    let code = numbering::country(country).map(|country| country.calling_code);
    code.map_or(Key::AnyNumber, |code| Key::Prefix(code.into()))
}

#[cfg(test)]
mod tests {
    use proto::control::Block;
    use proto::raft::{AllocateNumbers, ImportBlocks, ReleaseNumber, ReserveNumbers};

    use super::*;

    fn pick(prefix: &str, country: &str, e164: &[&str]) -> Option<NumberPick> {
        let shelf = Some(Shelf { country: country.into(), ..Shelf::default() });
        let e164 = e164.iter().map(|e164| (*e164).into()).collect();
        Some(NumberPick { prefix: prefix.into(), shelf, e164, count: 0 })
    }

    #[test]
    fn commands_say_what_they_are_about() {
        let block = |first: &str, count| Block { first: first.into(), count, ..Block::default() };
        let blocks = vec![block("+4420100", 10), block("nothing", 1)];
        let import = Kind::ImportBlocks(ImportBlocks { blocks });
        assert_eq!(keys(&import), [Key::Numbers(4_420_100, 4_420_109)]);
        let release = ReleaseNumber { e164: "+4930".into(), ..ReleaseNumber::default() };
        assert_eq!(keys(&Kind::ReleaseNumber(release)), [Key::Numbers(4930, 4930)]);
        assert_eq!(keys(&Kind::DeleteTrunk("t".into())), [Key::Mesh]);
        assert_eq!(keys(&Kind::SetFeatureLevel(2)), [Key::Here]);
        let pick = pick("", "", &["+4930"]);
        let reservation_id = "res-9".into();
        let taken = AllocateNumbers { reservation_id, pick, ..AllocateNumbers::default() };
        let expected = [Key::Numbers(4930, 4930), Key::Sequence(9)];
        assert_eq!(keys(&Kind::AllocateNumbers(taken)), expected);
    }

    #[test]
    fn a_choice_is_about_its_prefix_or_country() {
        let reserve = |pick| {
            keys(&Kind::ReserveNumbers(ReserveNumbers { pick, ..ReserveNumbers::default() }))
        };
        assert_eq!(reserve(pick("4930", "DE", &[])), [Key::Prefix(4930)]);
        assert_eq!(reserve(pick("", "GB", &[])), [Key::Prefix(44)]);
        assert_eq!(reserve(pick("", "CA", &[])), [Key::Prefix(1)]);
        assert_eq!(reserve(pick("", "001", &[])), [Key::AnyNumber]);
        assert_eq!(reserve(None), [Key::AnyNumber]);
        let query = NumberQuery { country: Some("DE"), ..NumberQuery::default() };
        assert_eq!(of_query(&query), Key::Prefix(49));
        assert_eq!((of_id("port-3"), of_id("port")), (Some(Key::Sequence(3)), None));
    }
}
