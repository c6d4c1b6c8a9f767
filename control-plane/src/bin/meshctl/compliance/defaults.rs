//! `meshctl compliance defaults`: the list that comes with this program.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};
use proto::control::compliance_client::ComplianceClient;
use proto::control::{
    ListComplianceRequest, NumberPolicy, PutNumberPolicyRequest, PutRequirementRequest,
    Requirement, WriteOptions,
};
use serde_json::json;

use super::args::Defaults;
use super::{To, show_requirements};
use crate::cli::Write;
use crate::connect::{Mesh, options};
use crate::values::{Address, Type};

const DAY_MS: u64 = 86_400_000;
/// What the state does without a policy.
const QUARANTINE_DAYS: u64 = 45;

/// A line of the list.
struct Rule {
    requirement: Requirement,
    quarantine_days: u64,
}

impl Rule {
    fn key(&self) -> (String, i32) {
        (self.requirement.country.clone(), self.requirement.r#type)
    }
}

pub(super) async fn run(asked: &Defaults, (mesh, printer): To<'_>) -> Result<()> {
    let mut rules = read()?;
    if !asked.country.is_empty() {
        let listed = |iso: &String| rules.iter().any(|rule| rule.requirement.country == *iso);
        if let Some(iso) = asked.country.iter().find(|iso| !listed(iso)) {
            bail!("{iso} is not in the list: write `compliance requirements put {iso}`");
        }
        rules.retain(|rule| asked.country.contains(&rule.requirement.country));
    }
    if !asked.apply {
        let listed: Vec<Requirement> = rules.into_iter().map(|rule| rule.requirement).collect();
        return show_requirements(&listed, printer);
    }
    let (kept, stored, policies) = apply(rules, asked.replace, mesh).await?;
    let sentence = format!(
        "{stored} requirements and {policies} policies stored, {kept} kept as they were. This is \
         no legal advice: check them"
    );
    printer.done(&json!({ "stored": stored, "policies": policies, "kept": kept }), &sentence)
}

/// How many were kept, stored, and policies among them.
async fn apply(rules: Vec<Rule>, replace: bool, mesh: &Mesh) -> Result<(usize, usize, usize)> {
    let there = if replace { BTreeSet::new() } else { stored(mesh).await? };
    let (mut kept, mut count, mut policies) = (0, 0, 0);
    for rule in rules {
        if there.contains(&rule.key()) {
            kept += 1;
            continue;
        }
        if rule.quarantine_days != QUARANTINE_DAYS {
            let policy = Some(NumberPolicy {
                country: rule.requirement.country.clone(),
                r#type: rule.requirement.r#type,
                quarantine_ms: Some(rule.quarantine_days * DAY_MS),
                ..<_>::default()
            });
            let request = PutNumberPolicyRequest { options: fresh(), policy, expect: None };
            let ask = async |channel, r| ComplianceClient::new(channel).put_policy(r).await;
            mesh.call(request, ask).await?;
            policies += 1;
        }
        let requirement = Some(rule.requirement);
        let request = PutRequirementRequest { options: fresh(), requirement, expect: None };
        let ask = async |channel, r| ComplianceClient::new(channel).put_requirement(r).await;
        mesh.call(request, ask).await?;
        count += 1;
    }
    Ok((kept, count, policies))
}

fn fresh() -> Option<WriteOptions> {
    options(&Write { request_id: None, dry_run: false })
}

async fn stored(mesh: &Mesh) -> Result<BTreeSet<(String, i32)>> {
    let request = ListComplianceRequest::default();
    let ask = async |channel, r| ComplianceClient::new(channel).list_requirements(r).await;
    let found = mesh.call(request, ask).await?.requirements.into_iter();
    Ok(found.map(|rule| (rule.country, rule.r#type)).collect())
}

fn read() -> Result<Vec<Rule>> {
    let text = include_str!("../../../../data/requirements.tsv");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let wrong = |line: &str| anyhow!("a line of the list is wrong: {line}");
    lines.map(|line| rule(line).ok_or_else(|| wrong(line))).collect()
}

fn rule(line: &str) -> Option<Rule> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let (country, kind, address) = (next()?, next()?, next()?);
    let (bundle, emergency, days, note) = (next()?, next()?, next()?, next()?);
    let yes = |word: &str| match word {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    let address = match address {
        "none" => Address::None,
        "any" => Address::Any,
        "national" => Address::National,
        "local" => Address::Local,
        _ => return None,
    };
    let requirement = Requirement {
        country: country.into(),
        r#type: Type::parse(kind).ok()?,
        address: Address::of(Some(address)),
        bundle: yes(bundle)?,
        emergency_address: yes(emergency)?,
        note: if note == "-" { String::new() } else { note.into() },
        ..<_>::default()
    };
    Some(Rule { requirement, quarantine_days: days.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proto::numbering::{self, Kind};

    use super::*;

    #[test]
    fn the_list_is_whole_and_names_what_there_is() {
        let rules = read().unwrap();
        let countries: BTreeSet<&str> =
            rules.iter().map(|rule| rule.requirement.country.as_str()).collect();
        assert!(countries.len() >= 30, "{}", countries.len());
        let keys: BTreeSet<_> = rules.iter().map(Rule::key).collect();
        assert_eq!(keys.len(), rules.len(), "each once");
        for rule in &rules {
            let Requirement { country, r#type, .. } = &rule.requirement;
            let plan = numbering::country(country).expect("a country");
            let kind = match *r#type {
                1 => Kind::Local,
                2 => Kind::National,
                3 => Kind::Mobile,
                _ => Kind::TollFree,
            };
            assert!(!plan.lengths(kind).is_empty(), "{country} has no {kind:?} numbers");
            assert!(rule.quarantine_days >= 45 && rule.requirement.note.len() <= 1_024);
        }
        let german = rules.iter().find(|rule| rule.key() == ("DE".into(), 1)).unwrap();
        assert!(german.requirement.bundle);
        assert_eq!(german.requirement.address, Address::of(Some(Address::Local)));
    }
}
