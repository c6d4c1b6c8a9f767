//! `meshctl`: the operator's command.
//!
//! Talks to the public API of any control node; a write keeps its request id through all tries,
//! so that it takes effect once. Prints a table for people or JSON for programs. Exit codes: 0
//! done, 1 refused, 2 wrong arguments, 3 not reached or not answered.

mod audit;
mod backup;
mod calls;
mod cli;
mod compliance;
mod connect;
mod control;
mod data;
mod docs;
mod numbers;
mod paths;
mod pki;
mod pops;
mod porting;
mod refusal;
mod roles;
mod routes;
mod status;
mod table;
mod tenants;
mod tokens;
mod trunks;
mod values;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use audit::Audit;
use cli::{Cli, Command, Output, Pki};
use connect::{Mesh, Unreached};
use control::Control;
use refusal::Refusal;
use table::Printer;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.connection.output;
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error changes nothing about the outcome.
            let _ = writeln!(io::stderr(), "{}", said(&error, output));
            if error.is::<Unreached>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

fn said(error: &anyhow::Error, output: Output) -> String {
    match output {
        Output::Table => format!("meshctl: {error:#}"),
        Output::Json => {
            let refusal = error.downcast_ref::<Refusal>();
            let message = format!("{error:#}");
            refusal
                .map_or_else(
                    || serde_json::json!({ "error": { "message": message } }),
                    |refusal| serde_json::json!({ "error": refusal }),
                )
                .to_string()
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let printer = Printer::new(cli.connection.output);
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "meshctl", &mut script);
            printer.raw(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Control(Control::Data(command)) if command.is_offline() => {
            data::run(&command, &printer)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Pki(command) if !matches!(command, Pki::Renew) => {
            pki::run(&command, &cli.connection, &printer)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Audit(Audit::Verify { file: Some(file), expect_last }) => {
            audit::verify_file(&file, expect_last.as_deref(), &printer)?;
            Ok(ExitCode::SUCCESS)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // Lazy connections belong to a runtime from the start.
            let _entered = runtime.enter();
            let mesh = Mesh::open(&cli.connection)?;
            runtime.block_on(ask(command, &mesh, &printer))
        }
    }
}

async fn ask(command: Command, mesh: &Mesh, printer: &Printer) -> anyhow::Result<ExitCode> {
    match command {
        Command::Control(command) => return control::run(command, mesh, printer).await,
        Command::Status => return status::run(mesh, printer).await,
        Command::Pops(read) => pops::list(read, mesh, printer).await?,
        Command::Pop(command) => pops::run(command, mesh, printer).await?,
        Command::Call(command) => calls::run(command, mesh, printer).await?,
        Command::Drill(command) => calls::drill(command, mesh, printer).await?,
        Command::Path(command) => paths::run(command, mesh, printer).await?,
        Command::Trunks(command) => trunks::run(command, mesh, printer).await?,
        Command::Routes(command) => routes::run(command, mesh, printer).await?,
        Command::Token(command) => tokens::run(command, mesh, printer).await?,
        Command::Audit(command) => audit::run(command, mesh, printer).await?,
        Command::Roles(command) => return roles::run(command, mesh, printer).await,
        Command::Numbers(command) => numbers::run(command, mesh, printer).await?,
        Command::Tenants(command) => tenants::run(command, mesh, printer).await?,
        Command::Porting(command) => porting::run(command, mesh, printer).await?,
        Command::Compliance(command) => compliance::run(command, mesh, printer).await?,
        Command::Pki(_) => pki::renew(mesh, printer).await?,
        // Done before a connection is needed.
        Command::Completions { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}
