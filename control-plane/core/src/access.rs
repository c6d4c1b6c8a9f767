//! Who may do what: roles, bindings, and the decision.
//!
//! A role grants verbs on patterns of resources; a binding gives a role to principals. What no
//! binding grants is denied. The decision depends on the replicated tables and its arguments
//! alone, so that every node comes to the same one at the same revision.
//!
//! Deliberately not here: which request needs what (the API's table), and any "deny" rule: rights
//! only add up, so an order of rules never matters.

use std::collections::BTreeMap;
use std::fmt;

use proto::control::{Binding, Grant, Role};

/// What can be done to a resource.
pub const VERBS: &[(&str, &str)] = &[
    ("allocate", "reserve numbers and give them to a tenant"),
    ("delete", "take something out"),
    ("grant", "change roles and bindings, make join tokens"),
    ("import", "add numbers to the inventory"),
    ("operate", "change members, take snapshots and backups"),
    ("read", "get and list, passwords left out"),
    ("register", "enter a POP and send its heartbeats"),
    ("release", "take numbers back"),
    ("reveal", "read the passwords of trunks"),
    ("transfer", "move numbers between tenants or carriers, suspend and block them"),
    ("watch", "follow all changes, passwords of trunks included"),
    ("write", "create or change"),
];

/// May do everything; the last binding to it stays.
pub const ADMIN: &str = "admin";

/// Roles that come with the software: id, what for, (verbs, resources).
type BuiltIn =
    (&'static str, &'static str, &'static [(&'static [&'static str], &'static [&'static str])]);

/// What an operator works with.
const INVENTORY: &[&str] = &[
    "compliance/*",
    "numbers/*",
    "pools/*",
    "pops/*",
    "porting/*",
    "routes/*",
    "tenants/*",
    "trunks/*",
];

const BUILT_IN: &[BuiltIn] = &[
    (ADMIN, "everything", &[(&["*"], &["*"])]),
    (
        "control",
        "control nodes among themselves",
        &[(&["read"], &["cluster/*"]), (&["watch"], &["changes"])],
    ),
    (
        "operator",
        "daily work; not roles, members or certificates",
        &[
            (
                &[
                    "allocate", "delete", "import", "read", "register", "release", "reveal",
                    "transfer", "write",
                ],
                INVENTORY,
            ),
            (&["read"], &["audit/*", "cluster/*"]),
            (&["watch"], &["changes"]),
        ],
    ),
    (
        "pop",
        "what a POP does for itself",
        &[
            (&["register"], &["pops/{name}"]),
            (&["read"], &["cluster/*", "numbers/*", "pops/*", "routes/*", "trunks/*"]),
            (&["watch"], &["changes"]),
        ],
    ),
    (
        "tenant-service",
        "a program that manages the numbers of one tenant",
        &[
            (&["allocate", "read", "release"], &["tenants/{tenant}", "tenants/{tenant}/*"]),
            (&["allocate", "release"], &["numbers/*", "pools/*"]),
        ],
    ),
    (
        "viewer",
        "looks, changes nothing, sees no passwords",
        &[(&["read"], INVENTORY), (&["read"], &["cluster/*"])],
    ),
];

/// Bindings that are there until somebody removes them: whoever holds the mesh's authority can
/// make the first operator.
pub(crate) const BOOTSTRAP: &[(&str, &str)] =
    &[("control/*", "control"), ("operator/*", ADMIN), ("pop/*", "pop")];

/// Names of the roles that come with the software.
pub fn is_built_in(role_id: &str) -> bool {
    BUILT_IN.iter().any(|(id, ..)| *id == role_id)
}

pub(crate) fn is_bootstrap(binding: &Binding) -> bool {
    let key = (binding.principal.as_str(), binding.role_id.as_str());
    binding.tenant.is_empty() && BOOTSTRAP.contains(&key)
}

fn built_in_roles() -> impl Iterator<Item = Role> {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
    BUILT_IN.iter().map(move |(id, description, grants)| Role {
        role_id: (*id).into(),
        grants: grants
            .iter()
            .map(|(verbs, on)| Grant { verbs: words(verbs), resources: words(on) })
            .collect(),
        description: (*description).into(),
        built_in: true,
    })
}

/// Key of a binding: principal, role, tenant.
type Key = (String, String, String);

fn key(binding: &Binding) -> Key {
    (binding.principal.clone(), binding.role_id.clone(), binding.tenant.clone())
}

/// All roles and bindings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    roles: BTreeMap<String, GrantList>,
    /// By principal pattern, so that a caller's own ones are found without looking at all.
    bindings: BTreeMap<Key, bool>,
}

/// A role, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GrantList {
    grants: Vec<(Vec<String>, Vec<String>)>,
    description: String,
    built_in: bool,
}

impl Default for Policy {
    fn default() -> Self {
        let mut policy = Self { roles: BTreeMap::new(), bindings: BTreeMap::new() };
        built_in_roles().for_each(|role| policy.put_role(&role));
        for (principal, role_id) in BOOTSTRAP {
            let key = ((*principal).into(), (*role_id).into(), String::new());
            policy.bindings.insert(key, true);
        }
        policy
    }
}

/// What allows something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed<'a> {
    /// Of the binding.
    pub principal: &'a str,
    /// Of the role.
    pub role_id: &'a str,
    /// Its pattern.
    pub pattern: &'a str,
}

impl fmt::Display for Allowed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, role_id, pattern } = self;
        write!(
            f,
            "\"{principal}\" is bound to role \"{role_id}\", which grants it on \"{pattern}\""
        )
    }
}

impl Policy {
    pub(crate) fn put_role(&mut self, role: &Role) {
        let grants = role.grants.iter().map(|g| (g.verbs.clone(), g.resources.clone()));
        let list = GrantList {
            grants: grants.collect(),
            description: role.description.clone(),
            built_in: is_built_in(&role.role_id),
        };
        self.roles.insert(role.role_id.clone(), list);
    }

    pub(crate) fn delete_role(&mut self, role_id: &str) {
        self.roles.remove(role_id);
    }

    pub(crate) fn bind(&mut self, binding: &Binding) {
        self.bindings.insert(key(binding), is_bootstrap(binding));
    }

    pub(crate) fn unbind(&mut self, binding: &Binding) {
        self.bindings.remove(&key(binding));
    }

    pub(crate) fn is_bound(&self, binding: &Binding) -> bool {
        self.bindings.contains_key(&key(binding))
    }

    pub(crate) fn has_role(&self, role_id: &str) -> bool {
        self.roles.contains_key(role_id)
    }

    pub(crate) fn bindings_of(&self, role_id: &str) -> usize {
        self.bindings.keys().filter(|(_, role, _)| role == role_id).count()
    }

    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.roles.len(), self.bindings.len())
    }

    /// All roles by name.
    pub fn roles(&self) -> impl Iterator<Item = Role> + '_ {
        self.roles.iter().map(|(id, list)| Role {
            role_id: id.clone(),
            grants: list
                .grants
                .iter()
                .map(|(verbs, on)| Grant { verbs: verbs.clone(), resources: on.clone() })
                .collect(),
            description: list.description.clone(),
            built_in: list.built_in,
        })
    }

    /// All bindings by principal.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> + '_ {
        self.bindings.iter().map(|((principal, role_id, tenant), built_in)| Binding {
            principal: principal.clone(),
            role_id: role_id.clone(),
            tenant: tenant.clone(),
            built_in: *built_in,
        })
    }

    /// Whether every resource is open to this verb of this principal: no need to name any then.
    pub fn is_unlimited(&self, principal: &str, verb: &str) -> bool {
        self.granted(principal, verb).any(|(_, _, pattern, _)| pattern == "*")
    }

    /// What allows it, if anything does.
    pub fn check(&self, principal: &str, verb: &str, resource: &str) -> Option<Allowed<'_>> {
        let name = principal.rsplit('/').next().unwrap_or_default();
        let found = self
            .granted(principal, verb)
            .find(|(_, _, pattern, tenant)| matches(pattern, resource, name, tenant));
        found.map(|(principal, role_id, pattern, _)| Allowed { principal, role_id, pattern })
    }

    /// (principal pattern, role, resource pattern, tenant) of all grants of this verb.
    fn granted<'a>(
        &'a self,
        principal: &str,
        verb: &str,
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a str, &'a str)> {
        let kind = principal.split('/').next().unwrap_or_default();
        let any = format!("{kind}/*");
        let of = |principal: &str| {
            let from = (principal.to_owned(), String::new(), String::new());
            let own = principal.to_owned();
            self.bindings.range(from..).map(|(key, _)| key).take_while(move |k| k.0 == own)
        };
        let verb = verb.to_owned();
        of(principal).chain(of(&any)).chain(of("*")).flat_map(move |(bound, role_id, tenant)| {
            let grants = self.roles.get(role_id).map(|role| role.grants.as_slice());
            let verb = verb.clone();
            grants
                .unwrap_or_default()
                .iter()
                .filter(move |(verbs, _)| verbs.iter().any(|v| v == "*" || *v == verb))
                .flat_map(|(_, resources)| resources)
                .map(move |p| (bound.as_str(), role_id.as_str(), p.as_str(), tenant.as_str()))
        })
    }
}

/// Segment by segment. An empty {tenant} matches nothing: a binding without one opens no tenant.
fn matches(pattern: &str, resource: &str, name: &str, tenant: &str) -> bool {
    let mut wanted = pattern.split('/').peekable();
    let mut given = resource.split('/');
    while let Some(segment) = wanted.next() {
        if segment == "*" && wanted.peek().is_none() {
            return true;
        }
        let Some(part) = given.next() else { return false };
        let fits = match segment {
            "*" => true,
            "{tenant}" => !tenant.is_empty() && part == tenant,
            "{name}" => part == name,
            literal => part == literal,
        };
        if !fits {
            return false;
        }
    }
    given.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(id: &str, verbs: &[&str], resources: &[&str]) -> Role {
        let words = |list: &[&str]| list.iter().map(|&w| w.to_owned()).collect();
        let grants = vec![Grant { verbs: words(verbs), resources: words(resources) }];
        Role { role_id: id.into(), grants, ..Role::default() }
    }

    fn binding(principal: &str, role_id: &str, tenant: &str) -> Binding {
        let (principal, role_id) = (principal.into(), role_id.into());
        Binding { principal, role_id, tenant: tenant.into(), ..Binding::default() }
    }

    #[test]
    fn patterns_match_whole_segments() {
        for (pattern, resource, expected) in [
            ("*", "numbers/de/4930", true),
            ("numbers/*", "numbers/de/4930", true),
            ("numbers/de/*", "numbers/de/4930", true),
            ("numbers/de/*", "numbers/de", true),
            ("numbers/de/*", "numbers/denmark/45", false),
            ("numbers/*/4930", "numbers/de/4930", true),
            ("numbers/*/4930", "numbers/de/4931", false),
            ("trunks/a", "trunks/a", true),
            ("trunks/a", "trunks/ab", false),
            ("trunks/a", "trunks/a/b", false),
            ("trunks/a", "trunks", false),
            ("tenants/{tenant}/*", "tenants/acme/numbers", true),
            ("tenants/{tenant}/*", "tenants/other", false),
            ("pops/{name}", "pops/portal", true),
            ("", "", true),
            ("", "trunks", false),
        ] {
            assert_eq!(
                matches(pattern, resource, "portal", "acme"),
                expected,
                "{pattern} {resource}"
            );
        }
        assert!(!matches("tenants/{tenant}", "tenants/", "x", ""), "no tenant opens no tenant");
    }

    #[test]
    fn nothing_is_allowed_that_is_not_granted() {
        let mut policy = Policy::default();
        assert!(policy.check("operator/anna", "grant", "roles/x").is_some(), "bootstrap");
        assert!(policy.check("service/portal", "read", "trunks/a").is_none());
        assert!(policy.check("", "read", "trunks/a").is_none());
        assert!(policy.check("operator/*", "read", "trunks/a").is_some());
        policy.put_role(&role("german", &["allocate", "read"], &["numbers/de/*"]));
        policy.bind(&binding("service/portal", "german", ""));
        assert!(policy.check("service/portal", "read", "numbers/de/4930").is_some());
        assert!(policy.check("service/portal", "read", "numbers/fr/331").is_none());
        assert!(policy.check("service/portal", "release", "numbers/de/4930").is_none());
        assert!(policy.check("service/portal2", "read", "numbers/de/4930").is_none());
        policy.unbind(&binding("service/portal", "german", ""));
        assert!(policy.check("service/portal", "read", "numbers/de/4930").is_none());
    }

    #[test]
    fn a_pop_speaks_for_itself_and_a_tenants_program_for_its_tenant() {
        let mut policy = Policy::default();
        assert!(policy.check("pop/fra1", "register", "pops/fra1").is_some());
        assert!(policy.check("pop/fra1", "register", "pops/sin1").is_none());
        assert!(policy.check("pop/fra1", "write", "trunks/a").is_none());
        policy.bind(&binding("service/portal", "tenant-service", "acme"));
        let allowed = |verb, on| policy.check("service/portal", verb, on).is_some();
        assert!(allowed("allocate", "tenants/acme") && allowed("allocate", "numbers/de/4930"));
        assert!(!allowed("allocate", "tenants/other") && !allowed("read", "numbers/de/4930"));
        assert!(!policy.is_unlimited("service/portal", "allocate"));
        assert!(policy.is_unlimited("operator/anna", "allocate"));
    }

    #[test]
    fn the_built_in_roles_use_known_verbs() {
        assert!(VERBS.is_sorted());
        for role in built_in_roles() {
            for verb in role.grants.iter().flat_map(|grant| &grant.verbs) {
                assert!(verb == "*" || VERBS.iter().any(|(v, _)| v == verb), "{verb}");
            }
        }
        for (_, role_id) in BOOTSTRAP {
            assert!(is_built_in(role_id), "{role_id}");
        }
    }
}
