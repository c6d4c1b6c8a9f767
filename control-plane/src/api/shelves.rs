//! Where numbers belong when they come in: country, area and type by the numbering plans.
//!
//! Done here, before a command is proposed, and written into it: replicas of two versions with
//! different plans still agree. What the caller says is kept; what it leaves open is filled in.

use control_core::command::IMPORT_MAX;
use proto::control::{Block, ImportNumbersRequest, NumberType, Shelf, Tag};
use proto::e164::E164;
use proto::numbering::{self, Class, Kind, WORLD};

use super::Failure;

/// The type of a number of ours.
pub(super) fn number_type(kind: Option<Kind>) -> NumberType {
    match kind {
        Some(Kind::Local) => NumberType::Local,
        Some(Kind::Mobile) => NumberType::Mobile,
        Some(Kind::National | Kind::SharedCost | Kind::Personal) => NumberType::National,
        Some(Kind::TollFree) => NumberType::TollFree,
        // Nothing to hand out without a second thought.
        Some(Kind::Premium) | None => NumberType::Unspecified,
    }
}

/// Single numbers as blocks: runs of consecutive ones that belong together.
pub(super) fn runs(request: ImportNumbersRequest) -> Result<Vec<Block>, Failure> {
    let given = Shelf {
        pool: request.pool,
        country: request.country,
        area: request.area,
        r#type: request.r#type,
        carrier: request.carrier,
    };
    let count = request.e164.len();
    if count == 0 || count > IMPORT_MAX {
        return Err(Failure::invalid(format!("e164 has {count} entries: 1 to {IMPORT_MAX}")));
    }
    let mut numbers = Vec::with_capacity(count);
    for (at, text) in request.e164.iter().enumerate() {
        let e164 = parse(&format!("e164[{at}]"), text)?;
        numbers.push((e164.digits().len(), value(&e164), e164));
    }
    numbers.sort_unstable();
    let mut blocks = Vec::<Block>::new();
    let mut last: Option<(usize, u64)> = None;
    for (length, value, e164) in numbers {
        if last == Some((length, value)) {
            return Err(Failure::invalid(format!("e164 has {e164} twice")));
        }
        let shelf = filled(&given, &e164)?;
        let follows = last == value.checked_sub(1).map(|before| (length, before));
        last = Some((length, value));
        match blocks.last_mut().filter(|block| follows && block.shelf.as_ref() == Some(&shelf)) {
            Some(block) => block.count += 1,
            None => blocks.push(block(e164.as_str(), shelf, &request.tags)),
        }
    }
    Ok(blocks)
}

fn block(first: &str, shelf: Shelf, tags: &[Tag]) -> Block {
    let first = first.to_owned();
    Block { first, count: 1, shelf: Some(shelf), tags: tags.to_vec(), imported_ms: 0 }
}

/// Blocks, each with what its shelf leaves open.
pub(super) fn blocks(mut blocks: Vec<Block>) -> Result<Vec<Block>, Failure> {
    for (at, block) in blocks.iter_mut().enumerate() {
        let name = format!("blocks[{at}]");
        let first = parse(&format!("{name}.first"), &block.first)?;
        let given = block.shelf.clone().unwrap_or_default();
        let shelf = filled(&given, &first).map_err(|failure| within(&name, failure))?;
        let last = last(&first, block.count)
            .ok_or_else(|| Failure::invalid(format!("{name}.count goes beyond its length")))?;
        let last = parse(&format!("the last number of {name}"), &last)?;
        if filled(&given, &last)? != shelf {
            let message = format!(
                "{name} begins and ends in different countries, areas or types: split it, or say \
                 country, area and type"
            );
            return Err(Failure::invalid(message));
        }
        block.shelf = Some(shelf);
    }
    Ok(blocks)
}

fn within(name: &str, mut failure: Failure) -> Failure {
    failure.message = format!("{name}.{}", failure.message);
    failure
}

/// The last of `count` numbers, of the same length; `None` when there are not so many.
fn last(first: &E164, count: u64) -> Option<String> {
    let last = value(first).checked_add(count.checked_sub(1)?)?.to_string();
    (last.len() == first.digits().len()).then(|| format!("+{last}"))
}

/// A shelf with what it leaves open, by the plan of this number.
pub(super) fn filled(given: &Shelf, e164: &E164) -> Result<Shelf, Failure> {
    let complete = !given.country.is_empty()
        && !given.area.is_empty()
        && given.r#type != i32::from(NumberType::Unspecified);
    check_country(&given.country, e164)?;
    let mut shelf = given.clone();
    if complete {
        return Ok(shelf);
    }
    let Class { country, kind, area } = numbering::classify(e164);
    if shelf.r#type == i32::from(NumberType::Unspecified) {
        shelf.r#type = number_type(kind).into();
    }
    // An area of another country or type than the caller's would say nothing.
    let alike = shelf.country.is_empty() || shelf.country == country;
    if shelf.area.is_empty() && alike && shelf.r#type == i32::from(NumberType::Local) {
        shelf.area = area;
    }
    if shelf.country.is_empty() {
        shelf.country = country;
    }
    Ok(shelf)
}

/// A country has numbers of its own calling code only.
fn check_country(iso: &str, e164: &E164) -> Result<(), Failure> {
    if iso.is_empty() || iso == WORLD {
        return Ok(());
    }
    let country = numbering::country(iso).ok_or_else(|| {
        let message =
            format!("country {iso:?} is no ISO 3166-1 code with a numbering plan: DE, US");
        Failure::invalid(message)
    })?;
    let code = country.calling_code.to_string();
    if e164.country_code() == code {
        return Ok(());
    }
    let message = format!(
        "country {iso} has calling code {code}, and {e164} has {}: correct one of them",
        e164.country_code()
    );
    Err(Failure::invalid(message))
}

/// A number, or what is wrong with this field.
pub(super) fn parse(name: &str, text: &str) -> Result<E164, Failure> {
    E164::parse(text)
        .map_err(|error| Failure::invalid(format!("{name} {error}")).with("field", name))
}

/// At most 15 digits: fits.
fn value(e164: &E164) -> u64 {
    e164.digits().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(e164: &[&str]) -> ImportNumbersRequest {
        let e164 = e164.iter().map(|&number| number.to_owned()).collect();
        ImportNumbersRequest { pool: "p".into(), e164, ..<_>::default() }
    }

    fn shelf(block: &Block) -> (&str, &str, NumberType) {
        let shelf = block.shelf.as_ref().unwrap();
        (&shelf.country, &shelf.area, shelf.r#type())
    }

    #[test]
    fn single_numbers_become_runs_with_country_area_and_type() {
        let request = import(&[
            "+4930123458",
            "+4930123456",
            "+18005551234",
            "+4930123457",
            "+4989123457",
            "+4915123456789",
        ]);
        let blocks = runs(request).unwrap();
        let of = |first: &str| blocks.iter().find(|block| block.first == first).unwrap();
        assert_eq!(blocks.len(), 4);
        assert_eq!(of("+4930123456").count, 3);
        assert_eq!(shelf(of("+4930123456")), ("DE", "30", NumberType::Local));
        assert_eq!(shelf(of("+4989123457")), ("DE", "89", NumberType::Local));
        assert_eq!(shelf(of("+4915123456789")), ("DE", "", NumberType::Mobile));
        assert_eq!(shelf(of("+18005551234")), ("US", "", NumberType::TollFree));
    }

    #[test]
    fn what_the_caller_says_is_kept() {
        let mut request = import(&["+4930123456"]);
        request.area = "berlin".into();
        request.r#type = NumberType::National.into();
        let blocks = runs(request).unwrap();
        assert_eq!(shelf(&blocks[0]), ("DE", "berlin", NumberType::National));
    }

    #[test]
    fn wrong_imports_name_field_and_fix_but_no_number() {
        let wrong = |request| runs(request).unwrap_err().message;
        assert!(wrong(import(&[])).starts_with("e164 has 0"));
        assert!(wrong(import(&["+4930123456", "030"])).starts_with("e164[1] "));
        let twice = wrong(import(&["+4930123456", "+4930123456"]));
        assert!(twice.contains("twice") && !twice.contains("123456"), "{twice}");
        let mut foreign = import(&["+4930123456"]);
        foreign.country = "FR".into();
        assert!(wrong(foreign.clone()).contains("calling code 33"));
        foreign.country = "Germany".into();
        assert!(wrong(foreign).contains("ISO 3166-1"));
    }

    #[test]
    fn blocks_must_not_cross_areas() {
        let of = |first: &str, count| Block { first: first.into(), count, ..<_>::default() };
        let filled = blocks(vec![of("+49300000000", 10_000_000)]).unwrap();
        assert_eq!(shelf(&filled[0]), ("DE", "30", NumberType::Local));
        let wrong = |block| blocks(vec![block]).unwrap_err().message;
        assert!(wrong(of("+4930999999", 2)).contains("split it"), "Berlin is full at 30 999999");
        assert!(wrong(of("+4930999999", 0)).contains("blocks[0].count"));
        assert!(wrong(of("+999999999999999", 2)).contains("blocks[0].first"));
        assert!(wrong(of("+4999999999", u64::MAX)).contains("count"));
    }
}
