//! `meshctl tenants`

use anyhow::Result;
use clap::{Args, Subcommand};
use proto::control::tenants_client::TenantsClient;
use proto::control::{
    DeleteTenantRequest, EndUserType, GetTenantRequest, ListTenantsRequest, PutTenantRequest, Tag,
    Tenant,
};
use serde_json::json;

use crate::cli::Write;
use crate::connect::{Mesh, options};
use crate::numbers::tag_map;
use crate::table::{Printer, or_dash};
use crate::values::{EndUser, Expected, Pages, Read, tag, tags};

#[derive(Subcommand)]
pub(crate) enum Tenants {
    /// Enter or change one; what is not given gets its default
    Put(Put),
    /// Show one
    Get {
        /// Its name
        tenant: String,
        #[command(flatten)]
        read: Read,
    },
    /// List
    List {
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        read: Read,
    },
    /// Delete one that owns nothing
    Delete {
        /// Its name
        tenant: String,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Args)]
#[command(after_help = "Example:
  meshctl tenants put acme --max-numbers 500 --end-user business --tag plan=gold")]
pub(crate) struct Put {
    /// Its name
    pub(crate) tenant: String,
    /// Numbers it may own, 0 for no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) max_numbers: u64,
    /// Numbers it may reserve at once, 0 for no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) max_reserved: u64,
    /// Whom the requirements of countries are about
    #[arg(long, value_enum)]
    pub(crate) end_user: Option<EndUser>,
    /// Its tags
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,…", value_parser = tag)]
    pub(crate) tag: Vec<Tag>,
    #[command(flatten)]
    pub(crate) expected: Expected,
    #[command(flatten)]
    pub(crate) write: Write,
}

pub(crate) async fn run(command: Tenants, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let tenant = match command {
        Tenants::Put(put) => {
            let tenant = Tenant {
                tenant: put.tenant,
                end_user_type: EndUser::of(put.end_user),
                max_numbers: put.max_numbers,
                max_reserved: put.max_reserved,
                tags: put.tag,
                ..<_>::default()
            };
            let (options, expect) = (options(&put.write), put.expected.expect());
            let request = PutTenantRequest { options, tenant: Some(tenant), expect };
            let ask = async |channel, request| TenantsClient::new(channel).put(request).await;
            mesh.call(request, ask).await?.tenant
        }
        Tenants::Get { tenant, read } => {
            let request = GetTenantRequest { read: read.options(), tenant, consistency: 0 };
            let ask = async |channel, request| TenantsClient::new(channel).get(request).await;
            mesh.call(request, ask).await?.tenant
        }
        Tenants::List { pages, read } => return list(pages, read, mesh, printer).await,
        Tenants::Delete { tenant, expected, write } => {
            let (options, expect) = (options(&write), expected.expect());
            let request = DeleteTenantRequest { options, tenant: tenant.clone(), expect };
            let ask = async |channel, request| TenantsClient::new(channel).delete(request).await;
            let revision = mesh.call(request, ask).await?.header.unwrap_or_default().revision;
            let sentence = format!("tenant {tenant} deleted at revision {revision}");
            return printer.done(&json!({ "deleted": tenant, "revision": revision }), &sentence);
        }
    };
    let tenant = tenant.unwrap_or_default();
    printer.list(&document(&tenant), &HEAD, &[row(&tenant)])
}

async fn list(pages: Pages, read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    while found.len() < pages.limit() {
        let page_size = pages.next(found.len(), 1_000);
        let read = read.options();
        let request = ListTenantsRequest { read, page_size, page_token, consistency: 0 };
        let ask = async |channel, request| TenantsClient::new(channel).list(request).await;
        let answer = mesh.call(request, ask).await?;
        found.extend(answer.tenants);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let documents: Vec<_> = found.iter().map(document).collect();
    printer.list(&documents, &HEAD, &rows)
}

const HEAD: [&str; 5] = ["TENANT", "NUMBERS", "RESERVED", "END USER", "TAGS"];

fn row(tenant: &Tenant) -> Vec<String> {
    let of = |used: u64, most: u64| match most {
        0 => used.to_string(),
        most => format!("{used} of {most}"),
    };
    vec![
        tenant.tenant.clone(),
        of(tenant.numbers, tenant.max_numbers),
        of(tenant.reserved, tenant.max_reserved),
        EndUser::word(tenant.end_user_type).into(),
        or_dash(tags(&tenant.tags)),
    ]
}

fn document(tenant: &Tenant) -> serde_json::Value {
    let end_user = EndUserType::try_from(tenant.end_user_type).ok();
    let end_user = end_user.filter(|one| *one != EndUserType::Unspecified);
    json!({
        "tenant": tenant.tenant, "numbers": tenant.numbers, "max_numbers": tenant.max_numbers,
        "reserved": tenant.reserved, "max_reserved": tenant.max_reserved,
        "end_user": end_user.map(|_| EndUser::word(tenant.end_user_type)),
        "tags": tag_map(tenant.tags.clone()), "etag": tenant.etag,
    })
}
