//! A lab in words, and as JSON.

use serde_json::{Value, json};

use crate::drill::Hands;
use crate::lab::{Mesh, Node};
use crate::wan::{Counters, Profile};

/// A way, as it is.
struct Way {
    from: String,
    to: String,
    profile: Profile,
    counters: Counters,
}

/// Nodes and ways, for people.
pub(super) fn words(mesh: &Mesh, hands: &Hands) -> Vec<String> {
    let mut lines = vec![format!("{:<11} {:<8} addresses", "node", "state")];
    for node in mesh.nodes() {
        let state = if mesh.is_running(node) { "runs" } else { "is down" };
        lines.push(format!("{:<11} {state:<8} {}", node.to_string(), addresses(mesh, node)));
    }
    let ways = ways(mesh, hands);
    if ways.is_empty() {
        return lines;
    }
    let head = ["delay", "jitter", "loss", "burst", "rate", "packets", "lost"];
    lines.push(String::new());
    lines.push(format!("{:<17}{}", "way", head.map(|word| format!("{word:>10}")).concat()));
    for Way { from, to, profile, counters } in ways {
        let cells = [
            format!("{} ms", profile.delay.as_millis()),
            format!("{} ms", profile.jitter.as_millis()),
            if profile.loss >= 1.0 { "cut".into() } else { format!("{:.1} %", profile.loss * 1e2) },
            format!("{:.0}", profile.burst),
            match profile.rate {
                0 => "–".into(),
                rate => format!("{} kbit", rate * 8 / 1_000),
            },
            counters.received.to_string(),
            (counters.lost + counters.overflowed).to_string(),
        ];
        let cells = cells.map(|cell| format!("{cell:>10}")).concat();
        lines.push(format!("{:<17}{cells}", format!("{from} > {to}")));
    }
    lines
}

fn addresses(mesh: &Mesh, node: &Node) -> String {
    let admin = mesh.admin(node).map(|admin| format!("http://{admin}")).unwrap_or_default();
    match node {
        Node::Control(id) => {
            let index = usize::try_from(*id).unwrap_or_default().wrapping_sub(1);
            let api = mesh.api().get(index).map(ToString::to_string).unwrap_or_default();
            format!("API {api}, admin {admin}")
        }
        Node::Pop(pop) => match mesh.site(pop) {
            Ok(site) => format!(
                "{}, SIP {}, its carrier {}, admin {admin}",
                site.region, site.sip, site.carrier
            ),
            Err(_) => admin,
        },
    }
}

/// The same for programs.
pub(super) fn facts(mesh: &Mesh, hands: &Hands) -> Value {
    let node = |node: &Node| {
        let admin = mesh.admin(node).ok().map(|admin| admin.to_string());
        let mut facts = json!({
            "node": node.to_string(), "running": mesh.is_running(node), "admin": admin,
        });
        if let (Node::Pop(pop), Some(map)) = (node, facts.as_object_mut())
            && let Ok(site) = mesh.site(pop)
        {
            map.insert("region".into(), json!(site.region));
            map.insert("sip".into(), json!(site.sip.to_string()));
            map.insert("carrier".into(), json!(site.carrier.to_string()));
        }
        facts
    };
    let way = |way: Way| {
        let (profile, counters) = (way.profile, way.counters);
        json!({
            "from": way.from, "to": way.to,
            "delay_ms": profile.delay.as_secs_f64() * 1e3,
            "jitter_ms": profile.jitter.as_secs_f64() * 1e3,
            "loss": profile.loss, "burst": profile.burst, "bytes_per_second": profile.rate,
            "packets": counters.received, "lost": counters.lost, "overflowed": counters.overflowed,
        })
    };
    json!({
        "dir": mesh.dir().display().to_string(),
        "nodes": mesh.nodes().map(node).collect::<Vec<_>>(),
        "ways": ways(mesh, hands).into_iter().map(way).collect::<Vec<_>>(),
    })
}

/// All ways, each direction.
fn ways(mesh: &Mesh, hands: &Hands) -> Vec<Way> {
    let Some(wan) = mesh.wan() else { return Vec::new() };
    let pops = mesh.sites().iter();
    let ends = pops.flat_map(|site| hands.ways(mesh, (&site.id, None), None));
    let way = |(from, to): (String, String)| Way {
        profile: wan.profile(&from, &to),
        counters: wan.counters(&from, &to),
        from,
        to,
    };
    ends.map(way).collect()
}
