//! `meshctl token`: lets a new machine in.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use enroll::token::Token;
use proto::control::tokens_client::TokensClient;
use proto::control::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, RevokeTokenRequest,
};
use serde_json::json;

use crate::cli::{Read, Write};
use crate::connect::{Mesh, options};
use crate::table::{Printer, or_dash};

#[derive(Subcommand)]
pub(crate) enum Tokens {
    /// Make a token that lets one POP or control node in, once
    Create {
        /// A POP's id
        #[arg(long, required_unless_present = "control", conflicts_with = "control")]
        pop: Option<String>,
        /// A control node's id
        #[arg(long, value_name = "NODE")]
        control: Option<u64>,
        /// Where it stands [default: where the POP was before]
        #[arg(long, default_value = "", hide_default_value = true)]
        region: String,
        /// How long it is good, such as 30m, 12h or 2d
        #[arg(long, default_value = "1h", value_parser = duration_ms)]
        ttl: u64,
        #[command(flatten)]
        write: Write,
    },
    /// List tokens; never their secrets
    List(Read),
    /// Make a token useless
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
        #[command(flatten)]
        write: Write,
    },
}

/// `30s`, `15m`, `1h`, `2d`, in milliseconds.
fn duration_ms(text: &str) -> Result<u64, String> {
    let unit = text.chars().last().unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err("write a number and s, m, h or d".into()),
    };
    let number = text.trim_end_matches(unit).parse::<u64>();
    let number = number.map_err(|_| "write a number and s, m, h or d".to_owned())?;
    number.checked_mul(seconds * 1_000).ok_or_else(|| "that is too long".into())
}

pub(crate) async fn run(command: Tokens, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Tokens::Create { pop, control, region, ttl, write } => {
            let (kind, name) = match (pop, control) {
                (Some(pop), _) => ("pop", pop),
                (None, Some(node)) => ("control", node.to_string()),
                (None, None) => bail!("name a --pop or a --control node"),
            };
            let request = CreateTokenRequest {
                options: options(&write),
                kind: kind.into(),
                name,
                region,
                ttl_ms: ttl,
                ..CreateTokenRequest::default()
            };
            create(request, mesh, printer).await
        }
        Tokens::List(read) => list(read, mesh, printer).await,
        Tokens::Revoke { id, write } => {
            let request = RevokeTokenRequest { options: options(&write), token_id: id.clone() };
            let ask = async |channel, request| TokensClient::new(channel).revoke(request).await;
            let answer = mesh.call(request, ask).await?;
            let revision = answer.header.unwrap_or_default().revision;
            let sentence = format!("token {id} revoked at revision {revision}");
            printer.done(&json!({ "revoked": id, "revision": revision }), &sentence)
        }
    }
}

/// The secret is made here and goes into the token's text; the mesh learns its hash.
async fn create(request: CreateTokenRequest, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let secret = random()?;
    let placeholder = Token::new("x", &[0; 32], vec!["x".into()], secret)?;
    let request = CreateTokenRequest { secret_sha256: placeholder.secret_sha256(), ..request };
    let program = if request.kind == "pop" { "pop-node" } else { "control-plane" };
    let ask = async |channel, request| TokensClient::new(channel).create(request).await;
    let CreateTokenResponse { token, mesh: name, ca_sha256, endpoints, .. } =
        mesh.call(request.clone(), ask).await?;
    let made = token.unwrap_or_default();
    if request.options.is_some_and(|options| options.validate_only) {
        let document = json!({ "kind": made.kind, "name": made.name, "region": made.region });
        let sentence = format!("a token for {}/{} ({})", made.kind, made.name, made.region);
        return printer.done(&document, &sentence);
    }
    let text = Token::new(&name, &ca_sha256, endpoints, secret)?.to_text();
    let document = json!({
        "id": made.token_id,
        "kind": made.kind,
        "name": made.name,
        "region": made.region,
        "expires_ms": made.expires_ms,
        "token": text,
    });
    let sentence = format!(
        "{program} join {text} --dir /etc/voxmesh\n\nRun this on the new machine, once: it makes \
         {}/{} ({}) of it. Whoever has the line can; revoke it with: meshctl token revoke {}",
        made.kind, made.name, made.region, made.token_id
    );
    printer.done(&document, &sentence)
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let source = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    source.fill(&mut bytes).ok().context("the system gives no random bytes")?;
    Ok(bytes)
}

async fn list(read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let request = ListTokensRequest { read: read.options(), consistency: 0 };
    let ask = async |channel, request| TokensClient::new(channel).list(request).await;
    let answer = mesh.call(request, ask).await?;
    let now_ms = answer.header.unwrap_or_default().log_time_ms;
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for token in answer.tokens {
        let state = match token.used_ms {
            0 if now_ms >= token.expires_ms => "expired",
            0 => "open",
            _ => "used",
        };
        let left = token.expires_ms.saturating_sub(now_ms) / 60_000;
        let left = if state == "open" { format!("{left} min") } else { String::new() };
        rows.push(vec![
            token.token_id.clone(),
            format!("{}/{}", token.kind, token.name),
            token.region.clone(),
            state.into(),
            or_dash(left),
            token.created_by.clone(),
        ]);
        documents.push(json!({
            "id": token.token_id,
            "kind": token.kind,
            "name": token.name,
            "region": token.region,
            "state": state,
            "expires_ms": token.expires_ms,
            "used_ms": token.used_ms,
            "created_by": token.created_by,
        }));
    }
    printer.list(&documents, &["TOKEN", "FOR", "REGION", "STATE", "LEFT", "MADE BY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration_ms("30m"), Ok(1_800_000));
        assert_eq!(duration_ms("2d"), Ok(172_800_000));
        for bad in ["", "h", "30", "-1h", "1w", "99999999999999999999d"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }
}
