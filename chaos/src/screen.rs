//! Where commands print: a terminal gets a table that redraws itself, a pipe gets lines.

use std::io::{IsTerminal, Write};

/// Standard output, or another place for the same.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    out: Out,
    /// Lines of the table that stand at the bottom.
    drawn: usize,
}

#[derive(Debug, Clone, Copy)]
enum Out {
    Nowhere,
    Stderr,
    Stdout,
}

impl Screen {
    /// Standard output, whatever it is.
    pub fn stdout() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), out: Out::Stdout, drawn: 0 }
    }

    /// Nothing is printed.
    pub const fn none() -> Self {
        Self { terminal: false, out: Out::Nowhere, drawn: 0 }
    }

    /// Standard error, in lines: for the progress of what prints something else.
    pub const fn stderr() -> Self {
        Self { terminal: false, out: Out::Stderr, drawn: 0 }
    }

    /// Whether somebody watches, and may press a key.
    pub fn is_terminal(&self) -> bool {
        self.terminal && std::io::stdin().is_terminal()
    }

    /// Whether tables are drawn over each other.
    pub const fn redraws(&self) -> bool {
        self.terminal
    }

    /// Prints a line that stays.
    pub fn line(&mut self, text: &str) {
        let erase = self.erase();
        self.write(&format!("{erase}{text}\n"));
    }

    /// Draws the table, over the last one; a pipe gets `summary` instead.
    pub fn table(&mut self, rows: &[String], summary: &str) {
        if !self.terminal {
            return self.write(&format!("{summary}\n"));
        }
        let erase = self.erase();
        self.drawn = rows.len();
        self.write(&format!("{erase}{}\n", rows.join("\n")));
    }

    /// Moves to the table's first line and clears from there (ECMA-48 CPL, ED).
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        }
    }

    fn write(&self, text: &str) {
        // A reader that went away (| head) is no reason to stop cleaning up.
        let _gone = match self.out {
            Out::Nowhere => Ok(()),
            Out::Stderr => std::io::stderr().lock().write_all(text.as_bytes()),
            Out::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
    }
}
