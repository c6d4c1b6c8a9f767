//! What capsules are believed: those that can be read, of epochs that are not over.

use proptest::prelude::*;
use prost::Message as _;
use proto::call::call_message::Kind;
use proto::call::guard_message::Kind as Guarding;
use proto::call::{CallMessage, CallRejoin, Capsule, GuardMessage, GuardOpen, HalfName, Handover};
use proto::id::PopId;
use proto::time::{Duration, Instant};

use super::script::act;
use super::world::World;
use crate::call::{Kept, Name, Side};
use crate::pop::{CallStream, Initiator, PopCommand, Refusal, StreamEvent};

/// Alice talks to Carol: a half at fra1, one at sin1.
fn talking() -> World {
    after(
        "alice calls +6561234567 pcmu,dtmf\nwait 50ms\ncarol answers pcmu\nwait 50ms\nalice acks\n\
         wait 1s\n",
    )
}

fn after(script: &str) -> World {
    let mut world = World::new();
    for line in script.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        act(&mut world, &words).unwrap();
    }
    world
}

fn capsule(world: &World, pop: &str) -> Capsule {
    let pop = &world.pops[&PopId::new(pop).unwrap()];
    let mut capsule = pop.calls.values().find_map(|call| call.capsule()).unwrap();
    (capsule.version, capsule.now_ms) = (7, world.now.as_millis());
    capsule
}

fn stream(number: u64) -> CallStream {
    CallStream { peer: PopId::new("fra1").unwrap(), number, initiator: Initiator::Remote }
}

/// sin1 hears a message about guarding from fra1; what it answers.
fn hears(world: &mut World, stream: &CallStream, kind: Guarding) -> Vec<Guarding> {
    says(world, stream, Kind::Guard(GuardMessage { kind: Some(kind) }))
        .into_iter()
        .filter_map(|kind| match kind {
            Kind::Guard(guard) => guard.kind,
            _ => None,
        })
        .collect()
}

fn says(world: &mut World, stream: &CallStream, kind: Kind) -> Vec<Kind> {
    let now = world.now;
    let pop = world.pop(&PopId::new("sin1").unwrap());
    let event = StreamEvent::Message(CallMessage { kind: Some(kind) });
    pop.handle_call_stream(stream.clone(), event, now);
    let mut said = Vec::new();
    while let Some(command) = pop.poll_command() {
        if let PopCommand::SendCall { stream: to, message } = command
            && to == *stream
        {
            said.extend(message.kind);
        }
    }
    said
}

fn refused(world: &mut World, reason: Refusal) -> u64 {
    world.pop(&PopId::new("sin1").unwrap()).counters().refused(reason)
}

fn acknowledged(said: &[Guarding]) -> Option<u64> {
    said.iter().find_map(|kind| match kind {
        Guarding::Ack(ack) => Some(ack.version),
        _ => None,
    })
}

#[test]
fn a_half_is_said_in_little_and_read_as_it_was() {
    let world = talking();
    let capsule = capsule(&world, "fra1");
    assert!(capsule.encoded_len() < 1_200, "{} bytes", capsule.encoded_len());
    let later = world.now + Duration::from_secs(10);
    let kept = Kept::read(capsule.clone(), later).unwrap();
    assert_eq!(kept.name, Name::read(capsule.half.as_ref()).unwrap());
    // Told 10 s later by another clock: as old as it was when it was said.
    let age = |at: Instant, from: Instant| at.since(from);
    assert_eq!(age(later, kept.record.started), world.now.since(Instant::ZERO));
    assert!(capsule.session.unwrap().sent.windows(6).all(|w| w != b"crypto"));
}

#[test]
fn damaged_and_oversized_capsules_are_refused_and_said_to_be() {
    let mut world = talking();
    let good = capsule(&world, "fra1");
    let s = stream(900);
    hears(&mut world, &s, Guarding::Open(GuardOpen { epoch: 1 }));
    let said = hears(&mut world, &s, Guarding::Capsule(good.encode_to_vec()));
    assert_eq!(acknowledged(&said), Some(7));
    let damaged = [
        Capsule { half: None, ..good.clone() },
        Capsule { trunk_id: "No Label".into(), ..good.clone() },
        Capsule { dialog: None, ..good.clone() },
        Capsule { remote: "carrier:5060".into(), ..good.clone() },
        Capsule { session: None, ..good.clone() },
        Capsule { far: None, ..good.clone() },
        Capsule { record: None, ..good.clone() },
    ];
    let count = damaged.len() as u64;
    for capsule in damaged {
        let said = hears(&mut world, &s, Guarding::Capsule(capsule.encode_to_vec()));
        assert_eq!(acknowledged(&said), Some(0));
    }
    assert_eq!(refused(&mut world, Refusal::BadCapsule), count);
    let mut long = good.clone();
    long.dialog.as_mut().unwrap().route_set = vec![b"<sip:192.0.2.1;lr>".repeat(20); 20];
    hears(&mut world, &s, Guarding::Capsule(long.encode_to_vec()));
    let refused =
        refused(&mut world, Refusal::CapsuleTooLong) + refused(&mut world, Refusal::BadCapsule);
    assert_eq!(refused, count + 1);
}

#[test]
fn an_epoch_that_is_over_says_nothing_any_more() {
    let mut world = talking();
    let good = capsule(&world, "fra1");
    let open = |epoch| Guarding::Open(GuardOpen { epoch });
    // A newer registration, then a verdict.
    world.declare("fra1", |pop| pop.epoch = 2);
    hears(&mut world, &stream(901), open(1));
    assert_eq!(refused(&mut world, Refusal::StaleEpoch), 1);
    hears(&mut world, &stream(902), open(2));
    world.declare("fra1", |pop| pop.fenced = true);
    let said = hears(&mut world, &stream(902), Guarding::Capsule(good.encode_to_vec()));
    assert_eq!(said, []);
    assert_eq!(refused(&mut world, Refusal::StaleEpoch), 2);
    // Nor does it get a call back.
    let call_id = good.half.unwrap().call_id;
    let rejoin = Kind::Rejoin(CallRejoin { call_id, epoch: 2, egress: false });
    let said = says(&mut world, &stream(903), rejoin);
    assert!(matches!(said.as_slice(), [Kind::Moved(_)]), "{said:?}");
}

#[test]
fn a_handover_of_what_is_not_here_is_refused() {
    let mut world = talking();
    let s = stream(904);
    hears(&mut world, &s, Guarding::Open(GuardOpen { epoch: 1 }));
    let half = Some(HalfName { call_id: vec![9; 16], egress: false });
    let said = hears(&mut world, &s, Guarding::Handover(Handover { half }));
    assert!(matches!(said.as_slice(), [Guarding::Taken(taken)] if taken.status == 404), "{said:?}");
}

/// A peer that follows at once would be here before the other half of its call is asked for.
#[test]
fn both_halves_of_a_call_come_when_one_is_asked_for() {
    let (fra1, sin1) = (PopId::new("fra1").unwrap(), PopId::new("sin1").unwrap());
    let mut world = after("alice calls +4930901820 pcmu\nbob answers pcmu\nalice acks\nwait 1s\n");
    let names = world.pops[&fra1].calls.values().map(|call| Name::of(&call.half));
    let bob = names.into_iter().find(|name| name.side == Side::Egress).unwrap();
    let s = world.pop(&sin1).core.guard.incoming_of(&fra1).unwrap();
    let handover = |name: Name| Guarding::Handover(Handover { half: Some(name.write()) });
    hears(&mut world, &s, handover(bob));
    assert_eq!(world.pops[&sin1].calls.len(), 2);
    // And when it is, nothing new happens.
    assert_eq!(hears(&mut world, &s, handover(bob.other())), []);
    assert_eq!(world.pops[&sin1].calls.len(), 2);
}

/// Nobody else's capsule is touched by a stream of fra1 that begins anew and says less.
#[test]
fn what_is_not_said_again_is_over() {
    let mut world = talking();
    let good = capsule(&world, "fra1");
    let name = Name::read(good.half.as_ref()).unwrap();
    let sin1 = PopId::new("sin1").unwrap();
    let s = stream(905);
    hears(&mut world, &s, Guarding::Open(GuardOpen { epoch: 1 }));
    assert!(world.pop(&sin1).core.guard.holds(name), "kept until all is said");
    hears(&mut world, &s, Guarding::Synced(proto::call::GuardSynced {}));
    assert!(!world.pop(&sin1).core.guard.holds(name));
}

/// As the POP's process sleeps through a verdict against another: it does not act before it knows
/// that there was none against itself.
#[test]
fn without_a_lease_nothing_is_taken() {
    let mut world = talking();
    let sin1 = PopId::new("sin1").unwrap();
    let now = world.now;
    world.pop(&sin1).handle_lease(now, now);
    world.declare("fra1", |pop| pop.fenced = true);
    assert_eq!(world.pop(&sin1).counters().halves_taken, 0);
    world.pop(&sin1).handle_lease(now + Duration::from_secs(1), now);
    assert_eq!(world.pop(&sin1).counters().halves_taken, 1);
}

/// Nobody but us may know of it yet: the view is the same.
#[test]
fn another_epoch_is_guarded_anew() {
    let mut world = talking();
    let (fra1, now) = (PopId::new("fra1").unwrap(), world.now);
    world.pop(&fra1).set_epoch(proto::id::Epoch(9), now);
    let guardians = |world: &World| world.pops[&fra1].calls()[0].guard.guardians.len();
    assert_eq!(guardians(&world), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever happens to a capsule on its way, reading it does not panic, and what can be read
    /// can be taken over.
    #[test]
    fn mutated_capsules_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        thread_local! {
            static GOOD: (Vec<u8>, Instant) = {
                let world = talking();
                (capsule(&world, "fra1").encode_to_vec(), world.now)
            };
        }
        let (mut bytes, now) = GOOD.with(Clone::clone);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let read = Capsule::decode(bytes.as_slice()).ok().and_then(|c| Kept::read(c, now));
        if read.is_none() {
            return Ok(());
        }
        // What can be read can be taken over, whatever comes of it.
        let mut world = talking();
        let stream = stream(99);
        hears(&mut world, &stream, Guarding::Open(GuardOpen { epoch: 1 }));
        hears(&mut world, &stream, Guarding::Capsule(bytes));
        act(&mut world, &["dies", "fra1"]).unwrap();
        act(&mut world, &["lost", "fra1"]).unwrap();
        world.wait(Duration::from_secs(100));
        act(&mut world, &["carol", "hangs", "up"]);
        world.wait(Duration::from_secs(100));
        let sin1 = PopId::new("sin1").unwrap();
        prop_assert!(world.pops[&sin1].is_idle(), "{}", world.trace);
    }
}
