//! Form of roles and bindings.

use proto::control::{Binding, Role};
use proto::id::PopId;
use proto::raft::{CreateToken, RecordReads, RedeemToken};

use super::{Check, bounded, label, text};
use crate::access::VERBS;

/// Patterns that a role fills in.
const VARIABLES: [&str; 2] = ["{name}", "{tenant}"];

pub(super) fn check_role_id(id: &str) -> Check {
    label("role_id", id)
}

pub(super) fn check_role(role: &Role) -> Check {
    check_role_id(&role.role_id)?;
    text("description", &role.description, 256)?;
    if role.grants.is_empty() {
        return Err("grants is empty: grant at least one verb on one resource".into());
    }
    bounded("grants", role.grants.len())?;
    for grant in &role.grants {
        bounded("verbs", grant.verbs.len())?;
        bounded("resources", grant.resources.len())?;
        if grant.verbs.is_empty() || grant.resources.is_empty() {
            return Err("grants needs verbs and resources in each entry".into());
        }
        let unknown =
            |verb: &&String| *verb != "*" && !VERBS.iter().any(|(known, _)| known == verb);
        if let Some(verb) = grant.verbs.iter().find(unknown) {
            let known: Vec<&str> = VERBS.iter().map(|(verb, _)| *verb).collect();
            return Err(format!("verbs has {verb:?}: one of {}, or \"*\"", known.join(", ")));
        }
        grant.resources.iter().try_for_each(|pattern| check_pattern(pattern))?;
    }
    Ok(())
}

fn check_pattern(pattern: &str) -> Check {
    let plain = |s: &str| {
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
    };
    let ok = pattern.len() <= 128
        && pattern.split('/').all(|s| s == "*" || VARIABLES.contains(&s) || plain(s));
    if ok {
        return Ok(());
    }
    Err(format!("resources has {pattern:?}: write segments such as \"numbers/de/*\" or \"*\""))
}

pub(super) fn check_binding(binding: &Binding) -> Check {
    check_role_id(&binding.role_id)?;
    if !binding.tenant.is_empty() {
        label("tenant", &binding.tenant)?;
    }
    let principal = &binding.principal;
    let ok = match principal.split_once('/') {
        Some((kind, name)) => {
            kind.parse::<proto::identity::Kind>().is_ok()
                && (name == "*" || PopId::new(name).is_ok())
        }
        None => principal == "*",
    };
    if ok {
        return Ok(());
    }
    Err(format!(
        "principal {principal:?} is neither like \"operator/anna\" or \"service/*\" nor \"*\""
    ))
}

/// Join tokens live between these.
const TTL_MS: std::ops::RangeInclusive<u64> = 60_000..=7 * 24 * 3_600_000;
/// Readers of one gathering.
const READS_MAX: usize = 256;

pub(super) fn check_token(create: &CreateToken) -> Check {
    let token = create.token.clone().unwrap_or_default();
    label("region", &token.region)?;
    match token.kind.as_str() {
        "pop" => label("name", &token.name)?,
        "control" if token.name.parse::<u64>().is_ok_and(|id| id > 0) => {}
        "control" => return Err("name of a control node is its node id, 1 or more".into()),
        other => return Err(format!("kind {other:?} is neither \"pop\" nor \"control\"")),
    }
    if !TTL_MS.contains(&create.ttl_ms) {
        return Err(format!("ttl_ms is {}: one minute to seven days", create.ttl_ms));
    }
    sha256("secret_sha256", &token.secret_sha256)
}

pub(super) fn check_redeem(redeem: &RedeemToken, principal: &str) -> Check {
    if !principal.starts_with("token/") {
        return Err("this command is internal".into());
    }
    sha256("secret_sha256", &redeem.secret_sha256)?;
    sha256("key_sha256", &redeem.key_sha256)
}

pub(super) fn check_reads(reads: &RecordReads, principal: &str) -> Check {
    if !principal.starts_with("control/") {
        return Err("this command is internal".into());
    }
    if reads.reads.len() > READS_MAX {
        return Err(format!("reads has more than {READS_MAX} entries"));
    }
    for read in &reads.reads {
        text("principal", &read.principal, 128)?;
        text("resource", &read.resource, 128)?;
    }
    Ok(())
}

fn sha256(name: &str, bytes: &[u8]) -> Check {
    if bytes.len() == 32 { Ok(()) } else { Err(format!("{name} needs 32 bytes")) }
}

#[cfg(test)]
mod tests {
    use proto::control::Grant;

    use super::*;

    fn role(verb: &str, resource: &str) -> Role {
        let grants = vec![Grant { verbs: vec![verb.into()], resources: vec![resource.into()] }];
        Role { role_id: "r".into(), grants, ..Role::default() }
    }

    #[test]
    fn roles_name_known_verbs_and_clean_patterns() {
        assert_eq!(check_role(&role("read", "numbers/de/*")), Ok(()));
        assert_eq!(check_role(&role("*", "tenants/{tenant}/*")), Ok(()));
        assert!(check_role(&role("see", "*")).unwrap_err().contains("allocate"));
        for bad in ["", "/", "numbers//x", "numbers/{x}", "a b", "numbers/de*"] {
            assert!(check_role(&role("read", bad)).unwrap_err().starts_with("resources"), "{bad}");
        }
        assert!(check_role(&Role { role_id: "r".into(), ..<_>::default() }).is_err());
    }

    #[test]
    fn principals_have_a_kind_and_a_name() {
        let check = |principal: &str| {
            let role_id = "viewer".into();
            check_binding(&Binding { principal: principal.into(), role_id, ..<_>::default() })
        };
        for good in ["operator/anna", "operator/*", "service/portal", "*"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "anna", "king/anna", "operator/", "operator/a/b", "*/*", "operator/A"] {
            assert!(check(bad).unwrap_err().starts_with("principal"), "{bad}");
        }
    }
}
