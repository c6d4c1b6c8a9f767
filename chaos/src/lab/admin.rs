//! A node's admin port, asked over plain HTTP/1.1.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(2);
/// A status page of thousands of calls fits.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// GETs a path; the body of a 200, else an error.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let answer = timeout(PATIENCE, exchange(address, path))
        .await
        .with_context(|| format!("http://{address}{path} does not answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split_whitespace().nth(1).unwrap_or("nothing");
    if status != "200" {
        bail!("http://{address}{path} answered {status}: {}", body.trim());
    }
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return unchunk(body);
    }
    Ok(body.to_owned())
}

async fn exchange(address: SocketAddr, path: &str) -> Result<String> {
    let stream = TcpStream::connect(address).await;
    let mut stream = stream.with_context(|| format!("http://{address}{path} does not answer"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// RFC 9112 §7.1, without trailers.
fn unchunk(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("a chunk without a size")?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("a chunk size that is no number")?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..size).context("a chunk shorter than its size")?);
        body = rest.get(size + 2..).context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("5\r\nhello\r\n6;x=1\r\n world\r\n0\r\n\r\n").unwrap(), "hello world");
        assert!(unchunk("5\r\nhel").is_err());
    }
}
