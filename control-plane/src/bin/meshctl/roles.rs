//! `meshctl roles`: who may do what.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use proto::control::access_client::AccessClient;
use proto::control::{
    BindRequest, Binding, DeleteRoleRequest, ExplainRequest, Grant, ListAccessRequest,
    PutRoleRequest, Role, WriteResponse,
};
use serde::Serialize;
use serde_json::json;

use crate::cli::{Read, Write};
use crate::connect::{Mesh, options};
use crate::table::{Printer, or_dash};

#[derive(Subcommand)]
pub(crate) enum Roles {
    /// List roles, bindings and verbs
    List(Read),
    /// Create or replace a role
    Put {
        /// Its id
        id: String,
        /// What it grants, such as "read,allocate:numbers/de/*"; repeat for more
        #[arg(long, required = true, value_name = "VERB,…:RESOURCE,…")]
        grant: Vec<String>,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        #[command(flatten)]
        write: Write,
    },
    /// Delete a role that no binding gives
    Delete {
        /// Its id
        id: String,
        #[command(flatten)]
        write: Write,
    },
    /// Give a role to a principal
    Bind(Bind),
    /// Take a role from a principal
    Unbind(Bind),
    /// Say whether a principal may do something, and why; exits 1 if not
    Explain {
        /// Such as "operator/anna"
        principal: String,
        /// Such as "allocate"
        verb: String,
        /// Such as "numbers/de/4930123456"
        resource: String,
    },
}

#[derive(Args)]
pub(crate) struct Bind {
    /// From the certificate: "operator/anna", "service/portal"; "operator/*" for all of a kind
    pub(crate) principal: String,
    /// Which role
    pub(crate) role: String,
    /// Fills {tenant} in the role's patterns
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    #[command(flatten)]
    pub(crate) write: Write,
}

pub(crate) async fn run(command: Roles, mesh: &Mesh, printer: &Printer) -> Result<ExitCode> {
    match command {
        Roles::List(read) => list(read, mesh, printer).await?,
        Roles::Put { id, grant, description, write } => {
            let grants = grant.iter().map(|text| parse(text)).collect::<Result<_>>()?;
            let role = Role { role_id: id.clone(), grants, description, ..Role::default() };
            let request = PutRoleRequest { options: options(&write), role: Some(role) };
            let ask = async |channel, request| AccessClient::new(channel).put_role(request).await;
            done(&format!("role {id} stored"), &mesh.call(request, ask).await?, printer)?;
        }
        Roles::Delete { id, write } => {
            let request = DeleteRoleRequest { options: options(&write), role_id: id.clone() };
            let ask =
                async |channel, request| AccessClient::new(channel).delete_role(request).await;
            done(&format!("role {id} deleted"), &mesh.call(request, ask).await?, printer)?;
        }
        Roles::Bind(bind) => {
            let ask = async |channel, request| AccessClient::new(channel).bind(request).await;
            let said = format!("{} has role {}", bind.principal, bind.role);
            done(&said, &mesh.call(binding(bind), ask).await?, printer)?;
        }
        Roles::Unbind(bind) => {
            let ask = async |channel, request| AccessClient::new(channel).unbind(request).await;
            let said = format!("{} has role {} no more", bind.principal, bind.role);
            done(&said, &mesh.call(binding(bind), ask).await?, printer)?;
        }
        Roles::Explain { principal, verb, resource } => {
            let request = ExplainRequest { principal, verb, resource };
            let ask = async |channel, request| AccessClient::new(channel).explain(request).await;
            let answer = mesh.call(request, ask).await?;
            let word = if answer.allowed { "allowed" } else { "denied" };
            let document = json!({ "allowed": answer.allowed, "why": answer.why });
            printer.done(&document, &format!("{word}: {}", answer.why))?;
            return Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn binding(bind: Bind) -> BindRequest {
    let Bind { principal, role, tenant, write } = bind;
    let binding = Binding { principal, role_id: role, tenant, ..Binding::default() };
    BindRequest { options: options(&write), binding: Some(binding) }
}

fn done(what: &str, answer: &WriteResponse, printer: &Printer) -> Result<()> {
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    let sentence = format!("{what} at revision {revision}");
    printer.done(&json!({ "done": what, "revision": revision }), &sentence)
}

/// `read,allocate:numbers/de/*,pools/*`
fn parse(text: &str) -> Result<Grant> {
    let (verbs, resources) = text.split_once(':').with_context(|| {
        format!("--grant {text:?} has no \":\" between verbs and resources: \"read:trunks/*\"")
    })?;
    let words = |list: &str| list.split(',').map(|word| word.trim().to_owned()).collect();
    Ok(Grant { verbs: words(verbs), resources: words(resources) })
}

#[derive(Serialize)]
struct RoleDoc {
    id: String,
    grants: Vec<String>,
    description: String,
    built_in: bool,
}

#[derive(Serialize)]
struct BindingDoc {
    principal: String,
    role: String,
    tenant: String,
    built_in: bool,
}

async fn list(read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let request = ListAccessRequest { read: read.options(), consistency: 0 };
    let ask = async |channel, request| AccessClient::new(channel).list(request).await;
    let answer = mesh.call(request, ask).await?;
    let roles = answer.roles.into_iter().map(|role| RoleDoc {
        id: role.role_id,
        grants: role.grants.iter().map(describe).collect(),
        description: role.description,
        built_in: role.built_in,
    });
    let bindings = answer.bindings.into_iter().map(|b| BindingDoc {
        principal: b.principal,
        role: b.role_id,
        tenant: b.tenant,
        built_in: b.built_in,
    });
    let (roles, bindings) = (roles.collect::<Vec<_>>(), bindings.collect::<Vec<_>>());
    let mut rows = Vec::new();
    for role in &roles {
        let grants = role.grants.join("  ");
        rows.push(vec!["role".into(), role.id.clone(), grants, or_dash(&role.description)]);
    }
    for binding in &bindings {
        let to = format!("role {}", binding.role);
        let tenant = or_dash(&binding.tenant);
        rows.push(vec!["binding".into(), binding.principal.clone(), to, tenant]);
    }
    for verb in &answer.verbs {
        let (verb, what) = verb.split_once(": ").unwrap_or((verb, ""));
        rows.push(vec!["verb".into(), verb.into(), what.into(), "-".into()]);
    }
    let document = json!({ "roles": roles, "bindings": bindings, "verbs": answer.verbs });
    printer.list(&document, &["WHAT", "NAME", "GRANTS / ROLE / MEANING", "FOR"], &rows)
}

fn describe(grant: &Grant) -> String {
    format!("{}:{}", grant.verbs.join(","), grant.resources.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_written_as_they_are_read() {
        let grant = parse("read,allocate:numbers/de/*,pools/*").unwrap();
        assert_eq!(grant.verbs, ["read", "allocate"]);
        assert_eq!(describe(&grant), "read,allocate:numbers/de/*,pools/*");
        assert!(parse("read").unwrap_err().to_string().contains("no \":\""));
    }
}
