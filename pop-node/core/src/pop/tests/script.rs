//! The language of the stories.

use proto::id::{LegId, PopId};
use proto::time::Duration;

use super::world::{World, known};
use crate::media::{MediaEvent, SilenceCause};
use crate::pop::LinkState;
use crate::sip::{HeaderName, Method};

/// Longer than any timer of ours but the ring limit.
const LONG: Duration = Duration::from_secs(60);

/// Plays a script, then waits until all must be over, and checks that nothing is left.
pub(super) fn play(name: &str, script: &str) -> String {
    let mut world = World::new();
    for (number, line) in script.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            let words: Vec<&str> = line.split_whitespace().collect();
            let done = act(&mut world, &words);
            assert!(done.is_some(), "{name}:{}: {line}?\n{}", number + 1, world.trace);
        }
    }
    world.wait(LONG);
    let dead = &world.dead;
    let alive = world.pops.iter().filter(|(id, _)| !dead.contains(id));
    let left: Vec<_> = alive.filter(|(_, pop)| !pop.is_idle()).collect();
    if std::env::var_os("REWRITE").is_none() {
        assert!(left.is_empty(), "{name}: something is left: {left:#?}\n{}", world.trace);
    } else if !left.is_empty() {
        eprintln!("{name}: SOMETHING IS LEFT");
    }
    std::mem::take(&mut world.trace)
}

pub(super) fn act(world: &mut World, words: &[&str]) -> Option<()> {
    match words {
        ["wait", time] => world.wait(duration(time)?),
        ["link", "down"] => world.link(LinkState::Down),
        ["link", "up"] => world.link(LinkState::Up),
        // Its process ends, or stops, without a word.
        ["dies", pop] => _ = world.dead.insert(PopId::new(pop).ok()?),
        ["wakes", pop] => _ = world.dead.remove(&PopId::new(pop).ok()?),
        // It hears that itself.
        ["retires", pop] => {
            let now = world.now;
            world.pop(&PopId::new(pop).ok()?).retire(now);
            world.drain();
        }
        ["show", "guarding"] => world.tells_guarding = true,
        ["mute", pop] => _ = world.mute.insert(PopId::new(pop).ok()?),
        [name, "uses", "tcp", connection] => {
            world.phones.get_mut(*name)?.connection = Some(connection.parse().ok()?);
        }
        ["fail", name] => world.fail(name)?,
        // At most so long; in steps, to answer in time.
        ["until", name, "is", "asked", time] => {
            let end = world.now + duration(time)?;
            while !world.phones.get(*name)?.is_asked() {
                (world.now < end).then_some(())?;
                world.wait(Duration::from_millis(100));
            }
        }
        ["taken", first, last] => {
            world.taken = (first.parse().ok()?..=last.parse().ok()?).collect();
        }
        ["fence", pop] => {
            let now = world.now;
            world.pop(&PopId::new(pop).ok()?).fence(now);
            world.drain();
        }
        ["silent", pop, leg] => {
            let (leg, now) = (LegId(leg.parse().ok()?), world.now);
            let event = MediaEvent::Silent { leg, since: now, cause: SilenceCause::NoPackets };
            world.pop(&PopId::new(pop).ok()?).handle_media_event(event, now);
            world.drain();
        }
        ["lossy", pop, leg, percent] => {
            let (leg, percent, now) = (LegId(leg.parse().ok()?), percent.parse().ok()?, world.now);
            let event = MediaEvent::Lossy { leg, percent };
            world.pop(&PopId::new(pop).ok()?).handle_media_event(event, now);
            world.drain();
        }
        [name, "puts", "nothing"] => world.phones.get_mut(*name)?.extra.clear(),
        [name, "puts", header, value @ ..] => {
            let line = (HeaderName::new(header), value.join(" "));
            world.phones.get_mut(*name)?.extra.push(line);
        }
        ["shutdown", pop] => {
            let now = world.now;
            world.pop(&PopId::new(pop).ok()?).shutdown(now);
            world.drain();
        }
        ["counters", pop] => {
            let id = PopId::new(pop).ok()?;
            let line = format!("{pop} counts {:?}", world.pop(&id).active_calls());
            world.note(&line);
        }
        [name, rest @ ..] if known(name) => {
            let bytes = phone(world, name, rest)?;
            world.phone_sends(name, &bytes);
        }
        [word, pop] => return declare(world, word, pop),
        _ => return None,
    }
    Some(())
}

/// What the control plane says of a POP.
fn declare(world: &mut World, word: &str, pop: &str) -> Option<()> {
    let change: fn(&mut proto::control::Pop) = match word {
        "expired" => |pop| pop.expired = true,
        "cordon" => |pop| pop.cordoned = true,
        "uncordon" => |pop| pop.cordoned = false,
        "lost" => |pop| (pop.expired, pop.fenced) = (true, true),
        // A newer process has the name.
        "superseded" => |pop| pop.epoch += 1,
        "drains" => |pop| (pop.cordoned, pop.draining) = (true, true),
        "undrains" => |pop| (pop.cordoned, pop.draining) = (false, false),
        _ => return None,
    };
    world.declare(pop, change);
    Some(())
}

fn phone(world: &mut World, name: &str, words: &[&str]) -> Option<bytes::Bytes> {
    let phone = world.phones.get_mut(name)?;
    Some(match words {
        ["calls", number] => phone.calls(number, "none", 70),
        ["calls", number, codecs] => phone.calls(number, codecs, 70),
        ["calls", number, codecs, hops] => phone.calls(number, codecs, hops.parse().ok()?),
        ["authenticates", password] => phone.authenticates(password)?,
        ["cancels"] => phone.cancels()?,
        ["tries"] => phone.answers(100, "", "", "")?,
        ["rings"] => phone.answers(180, "", "", "")?,
        ["rings", fork] => phone.answers(180, "", "", fork)?,
        ["progresses", codecs] => phone.answers(183, codecs, "", "")?,
        ["progresses", codecs, fork] => phone.answers(183, codecs, "", fork)?,
        ["answers", "fork", fork, codecs] => phone.answers(200, codecs, "", fork)?,
        ["answers", codecs] => phone.answers(200, codecs, "", "")?,
        ["answers", codecs, direction] => phone.answers(200, codecs, direction, "")?,
        ["rejects", status] => phone.answers(status.parse().ok()?, "", "", "")?,
        ["challenges", "bye"] => phone.challenges()?,
        ["challenges"] => phone.answers(401, "", "", "")?,
        ["acks"] => phone.acks("none")?,
        ["acks", codecs] => phone.acks(codecs)?,
        ["hangs", "up"] => phone.says(Method::Bye, "none", "")?,
        ["reinvites", codecs] => phone.says(Method::Invite, codecs, "")?,
        ["reinvites", codecs, direction] => phone.says(Method::Invite, codecs, direction)?,
        ["says", method] => phone.says(Method::Other(method.to_string().into()), "none", "")?,
        ["pings"] => phone.asks(Method::Options, 0),
        ["registers"] => phone.asks(Method::Register, 70),
        ["oks"] => phone.oks()?,
        ["refuses", status] => phone.refuses(status.parse().ok()?)?,
        ["pracks"] => phone.pracks()?,
        ["presses", key] => phone.presses(key, "application/dtmf-relay")?,
        ["mumbles"] => phone.presses("?", "text/plain")?,
        ["updates", codecs] => phone.says(Method::Update, codecs, "")?,
        ["updates", codecs, direction] => phone.says(Method::Update, codecs, direction)?,
        ["sends", "garbage"] => {
            bytes::Bytes::from_static(b"INVITE sip:x SIP/2.0\r\nVia: what\r\n\r\n")
        }
        _ => return None,
    })
}

fn duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}
