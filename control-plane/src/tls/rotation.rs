//! Certificates that change while the node runs: files are read again when they changed, and on
//! SIGHUP; a certificate of two thirds of its age is renewed.
//!
//! New connections use what was read last, open ones stay. What cannot be used is refused with
//! the reason and the old stays. Renewal writes one file with key and certificate, so that the
//! two never disagree; with two files it is left to who wrote them.

use std::sync::Arc;
use std::time::SystemTime;

use enroll::files::{self, Seen};
use enroll::renew::{Validity, keep_fresh};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::Credentials;
use crate::check;
use crate::config::Config;
use crate::peer::Peers;
use crate::telemetry;

/// What connections are made with now.
pub struct Rotation {
    config: Config,
    /// The join address shows this authority too.
    authority: Option<CertificateDer<'static>>,
    server: watch::Sender<Arc<ServerConfig>>,
    join: Option<watch::Sender<Arc<ServerConfig>>>,
    client: watch::Sender<Arc<ClientConfig>>,
    validity: watch::Sender<Validity>,
}

impl Rotation {
    /// Begins with credentials that were checked.
    pub fn new(
        config: &Config,
        credentials: &Credentials,
        authority: Option<CertificateDer<'static>>,
    ) -> Result<Self, rustls::Error> {
        let validity = credentials.validity();
        let validity = validity.map_err(|error| rustls::Error::General(error.to_string()))?;
        let join = authority.clone().map(|authority| credentials.join_config(authority));
        Ok(Self {
            config: config.clone(),
            authority,
            server: watch::Sender::new(Arc::new(credentials.server_config()?)),
            join: join.transpose()?.map(|join| watch::Sender::new(Arc::new(join))),
            client: watch::Sender::new(Arc::new(credentials.dial_config()?)),
            validity: watch::Sender::new(validity),
        })
    }

    /// For the API's listener.
    pub fn server(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server.subscribe()
    }

    /// For the join listener.
    pub fn join(&self) -> Option<watch::Receiver<Arc<ServerConfig>>> {
        self.join.as_ref().map(watch::Sender::subscribe)
    }

    /// For dialing.
    pub fn client(&self) -> enroll::dial::Tls {
        self.client.subscribe()
    }

    /// Follows the files and the clock, for ever. This node and its peers are asked for renewals.
    pub async fn run(self, own: Channel, peers: Peers) {
        let files = &self.config.tls;
        let seen = Seen::new(vec![files.ca.clone(), files.cert.clone(), files.key.clone()]);
        let one_file = (files.cert == files.key).then(|| files.cert.clone());
        let nodes = || [vec![own.clone()], peers.channels()].concat();
        let (age, show) = (self.validity.subscribe(), telemetry::certificate_left);
        let aging = keep_fresh(age, one_file.as_deref(), nodes, show);
        tokio::select! {
            ended = files::watch(seen, || self.reload()) => {
                if let Err(error) = ended {
                    tracing::error!(%error, "certificate files are not watched: restart to rotate");
                }
            }
            () = aging => {}
        }
    }

    /// Reads the files; those that cannot be used change nothing.
    pub fn reload(&self) {
        match self.read() {
            Ok(left) => {
                tracing::info!(days_left = left / 86_400, "new certificate files are in use");
            }
            Err(why) => {
                tracing::error!("changed certificate files are not used, the old stay: {why}");
            }
        }
    }

    fn read(&self) -> Result<i64, String> {
        let now = SystemTime::now();
        let credentials = check::credentials(&self.config, now).map_err(|e| e.to_string())?;
        let validity = credentials.validity().map_err(|e| e.to_string())?;
        let said = |error: rustls::Error| error.to_string();
        let server = credentials.server_config().map_err(said)?;
        let client = credentials.dial_config().map_err(said)?;
        if let (Some(join), Some(authority)) = (&self.join, &self.authority) {
            let config = credentials.join_config(authority.clone()).map_err(said)?;
            join.send_replace(Arc::new(config));
        }
        self.server.send_replace(Arc::new(server));
        self.client.send_replace(Arc::new(client));
        self.validity.send_replace(validity);
        Ok(validity.left(now))
    }
}
