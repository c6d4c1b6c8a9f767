//! What a POP says to set-ups another POP should not have sent, or it has no room for.

use proto::call::call_message::Kind;
use proto::call::{CallMessage, CallSetup, Codec, Media};
use proto::id::PopId;
use proto::time::Instant;

use super::world::World;
use crate::pop::{CallStream, Initiator, PopCommand, StreamEvent};

fn setup(trunk: &str, epoch: u64) -> CallSetup {
    CallSetup {
        call_id: vec![7; 16],
        epoch,
        trunk_id: trunk.to_owned(),
        from: String::new(),
        to: "+6561234567".to_owned(),
        from_display: String::new(),
        max_forwards: 70,
        media: Some(Media { codecs: vec![i32::from(Codec::Pcmu)], stream: 1, ..Media::default() }),
        lane: 0,
    }
}

/// What sin1 answers first.
fn verdict(world: &mut World, number: u64, peer: &str, setup: CallSetup) -> Kind {
    let (sin1, peer) = (PopId::new("sin1").unwrap(), PopId::new(peer).unwrap());
    let stream = CallStream { peer, number, initiator: Initiator::Remote };
    let message = StreamEvent::Message(CallMessage { kind: Some(Kind::Setup(setup)) });
    let pop = world.pop(&sin1);
    pop.handle_call_stream(stream.clone(), StreamEvent::Opened, Instant::ZERO);
    pop.handle_call_stream(stream, message, Instant::ZERO);
    let mut said = None;
    while let Some(command) = pop.poll_command() {
        if let PopCommand::SendCall { message, .. } = command {
            said = said.or(message.kind);
        }
    }
    said.unwrap()
}

#[test]
fn only_of_the_mesh_for_our_trunks_and_while_there_is_room() {
    let mut world = World::new();
    let mut number = 0;
    let mut ask = |peer: &str, trunk: &str, epoch| {
        number += 1;
        match verdict(&mut world, number, peer, setup(trunk, epoch)) {
            Kind::Reject(reject) => (reject.status, reject.reason),
            Kind::Progress(progress) => (progress.status, String::new()),
            other => panic!("{other:?}"),
        }
    };
    let refused = |reason: &str| (503, reason.to_owned());
    assert_eq!(ask("nowhere1", "carol", 1), refused("stale_epoch"));
    assert_eq!(ask("fra1", "carol", 0), refused("stale_epoch"));
    assert_eq!(ask("fra1", "bob", 1), refused("no_route"), "Bob's trunk is not at sin1");
    for _ in 0..3 {
        assert_eq!(ask("fra1", "carol", 1), (100, String::new()));
    }
    assert_eq!(ask("fra1", "carol", 1), refused("overload"));
}
