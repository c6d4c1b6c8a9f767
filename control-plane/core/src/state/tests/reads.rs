//! Lists and caller ids.

use proptest::prelude::*;
use proto::control::{Block, NumberType, Shelf, Tag};
use proto::raft::ImportBlocks;

use super::walk::import_block;
use super::*;

/// All pages of a query: numbers, and how many pages.
fn all(state: &State, query: NumberQuery<'_>) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut after) = (Vec::new(), 0, None::<String>);
    loop {
        let page = state.numbers(NumberQuery { after: after.as_deref(), ..query });
        assert!(page.numbers.len() <= query.limit);
        found.extend(page.numbers.into_iter().map(|number| number.e164));
        pages += 1;
        match page.next {
            Some(next) => assert_ne!(after.replace(next.clone()), Some(next), "goes on"),
            None => return (found, pages),
        }
    }
}

#[test]
fn pages_are_bounded_and_miss_nothing() {
    let mut run = Run::new();
    run.apply(import_block("+49150000000", 1_000_000, "mobile"));
    for n in [3, 500_000, 999_999] {
        run.apply(allocate("acme", &format!("+{}", 49_150_000_000u64 + n)));
    }
    run.apply(release("acme", "+49150500000"));
    let query = NumberQuery { limit: 100, ..NumberQuery::default() };
    let active = NumberQuery { state: Some(NumberState::Active), ..query };
    assert_eq!(all(&run.state, active).0, ["+49150000003", "+49150999999"]);
    let elsewhere = NumberQuery { pool: Some("other"), ..query };
    assert_eq!(all(&run.state, elsewhere), (vec![], 1), "nothing, at once");
    let acme = NumberQuery { tenant: Some("acme"), ..query };
    assert_eq!(all(&run.state, acme).0.len(), 3, "the last owner counts");
    let resting = NumberQuery { state: Some(NumberState::Quarantine), ..acme };
    assert_eq!(all(&run.state, resting).0, ["+49150500000"]);
    let some = NumberQuery { prefix: Some("4915000000"), ..query };
    assert_eq!(all(&run.state, some).0.len(), 10);
    let free = NumberQuery { state: Some(NumberState::Available), ..some };
    assert_eq!(all(&run.state, free).0.len(), 9);
    // A tag that nothing has: each page looks at a part only.
    let tag = Tag { key: "k".into(), value: String::new() };
    let (found, pages) = all(&run.state, NumberQuery { tag: Some(&tag), ..query });
    assert!(found.is_empty() && pages >= 50, "{pages}");
}

#[test]
fn blocks_carry_tags_for_their_numbers() {
    let mut run = Run::new();
    let tag = Tag { key: "order".into(), value: "7".into() };
    let block =
        Block { first: "+4930100".into(), count: 3, tags: vec![tag.clone()], ..Block::default() };
    run.apply(Kind::ImportBlocks(ImportBlocks { blocks: vec![block] }));
    run.apply(import_block("+4930200", 3, "p"));
    let query = NumberQuery { tag: Some(&tag), limit: 2, ..NumberQuery::default() };
    assert_eq!(all(&run.state, query).0, ["+4930100", "+4930101", "+4930102"]);
    let other = Tag { key: "order".into(), value: "8".into() };
    assert!(all(&run.state, NumberQuery { tag: Some(&other), ..query }).0.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Pages of any size and filter add up to what a look at every number finds.
    #[test]
    fn lists_are_what_a_full_look_finds(
        blocks in proptest::collection::vec((0u64..40, 1u64..12, 0u8..3), 1..6),
        taken in proptest::collection::vec((0u64..60, 0u8..2, any::<bool>()), 0..30),
        limit in 1usize..7,
        filter in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let mut run = Run::new();
        for (first, count, pool) in blocks {
            run.apply(import_block(&format!("+{}", 49_000 + first), count, &format!("p{pool}")));
        }
        for (number, tenant, back) in taken {
            let (tenant, e164) = (format!("t{tenant}"), format!("+{}", 49_000 + number));
            run.apply(allocate(&tenant, &e164));
            if back {
                run.apply(release(&tenant, &e164));
            }
        }
        let (by_pool, by_state, by_tenant, by_prefix) = filter;
        let query = NumberQuery {
            pool: by_pool.then_some("p1"),
            state: by_state.then_some(NumberState::Active),
            tenant: by_tenant.then_some("t1"),
            prefix: by_prefix.then_some("4901"),
            limit,
            ..NumberQuery::default()
        };
        let fits = |number: &Number| {
            (!by_pool || number.pool == "p1")
                && (!by_state || number.state() == NumberState::Active)
                && (!by_tenant || number.tenant == "t1")
                && (!by_prefix || number.e164.starts_with("+4901"))
        };
        let every = (49_000..49_100).filter_map(|n| run.state.number(&format!("+{n}")));
        let mut expected: Vec<String> = every.filter(fits).map(|n| n.e164).collect();
        let mut found = all(&run.state, query).0;
        if by_tenant {
            found.sort();
            expected.sort();
        }
        prop_assert_eq!(found, expected);
    }

    /// No number of the tenant is nearer, and of the nearest none is lower.
    #[test]
    fn caller_ids_are_the_nearest(
        owned in proptest::collection::btree_set(prop_oneof![10u64..99, 300u64..399, 3000u64..3999], 1..30),
        to in prop_oneof![10u64..99, 300u64..399, 3000u64..3999, 30_000u64..39_999],
    ) {
        let mut run = Run::new();
        for number in &owned {
            let e164 = format!("+{number}");
            run.apply(import_block(&e164, 1, "p"));
            run.apply(allocate("acme", &e164));
        }
        let destination = format!("+{to}");
        let query = CallerIdQuery {
            tenant: "acme",
            destination: &destination,
            countries: vec!["FR", "DE"],
            types: vec![],
        };
        let shared = |number: &u64| {
            let (a, b) = (number.to_string(), to.to_string());
            a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
        };
        let most = owned.iter().map(shared).max();
        let expected = owned.iter().filter(|n| Some(shared(n)) == most).min();
        let found = run.state.caller_id(&query).map(|number| number.e164);
        prop_assert_eq!(found, expected.map(|n| format!("+{n}")));
    }
}

#[test]
fn caller_ids_respect_country_type_and_state() {
    let mut run = Run::new();
    let kinds =
        [("DE", NumberType::TollFree), ("DE", NumberType::Local), ("FR", NumberType::Mobile)];
    for (at, (country, kind)) in kinds.into_iter().enumerate() {
        let shelf = Shelf { country: country.into(), r#type: kind.into(), ..Shelf::default() };
        let first = format!("+49{at}00");
        let block = Block { first: first.clone(), count: 1, shelf: Some(shelf), ..<_>::default() };
        run.apply(Kind::ImportBlocks(ImportBlocks { blocks: vec![block] }));
        run.apply(allocate("acme", &first));
    }
    let shown = |run: &Run, countries: &[&'static str], types: &[NumberType]| {
        let query = CallerIdQuery {
            tenant: "acme",
            destination: "+49012",
            countries: countries.to_vec(),
            types: types.to_vec(),
        };
        run.state.caller_id(&query).map(|number| number.e164)
    };
    let de = "+49100".to_owned();
    assert_eq!(shown(&run, &["DE"], &[]), Some(de.clone()), "no toll-free number unless asked");
    assert_eq!(shown(&run, &["DE"], &[NumberType::TollFree]), Some("+49000".into()));
    assert_eq!(shown(&run, &["US", "FR"], &[]), Some("+49200".into()));
    assert_eq!(shown(&run, &["US"], &[]), None);
    run.apply(release("acme", &de));
    assert_eq!(shown(&run, &["DE"], &[]), None);
}
