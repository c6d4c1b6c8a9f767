//! Join tokens: each lets one machine in, once, until it expires.
//!
//! Only the hash of the secret is here. A token that was used answers the same key again, because
//! the first answer may have got lost on its way; any other key is refused.

use proto::control::Token;
use proto::raft::{CreateToken, Done, Reason, RedeemToken, outcome};

use super::tables::Record;
use super::{Answer, Expiry, State, Step, Store, refuse};

/// Most tokens remembered.
pub(crate) const TOKENS_MAX: usize = 10_000;
/// How long a token is remembered after it expired, so that its late user hears why.
const REMEMBERED_MS: u64 = 7 * 24 * 3_600_000;

impl Record for Token {
    const TABLE: u8 = b'T';
    fn name(&self) -> String {
        self.token_id.clone()
    }
}

/// Name of the token with this secret: the first eight bytes of its hash.
pub fn token_id(secret_sha256: &[u8]) -> String {
    let id = secret_sha256.iter().take(8).fold(0, |id, byte| (id << 8) | u64::from(*byte));
    name(id)
}

pub(super) fn name(id: u64) -> String {
    format!("{id:016x}")
}

impl<S: Store> State<S> {
    /// A token, its secret's hash included.
    pub fn token(&self, token_id: &str) -> Option<Token> {
        self.tables.get(token_id)
    }

    /// All tokens by id.
    pub fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.tables.scan(None)
    }

    pub(super) fn create_token(
        &mut self,
        create: &CreateToken,
        principal: &str,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let asked = create.token.clone().unwrap_or_default();
        let token = Token {
            token_id: token_id(&asked.secret_sha256),
            expires_ms: now_ms.saturating_add(create.ttl_ms),
            used_ms: 0,
            created_by: principal.into(),
            key_sha256: Vec::new(),
            ..asked
        };
        if self.tables.contains::<Token>(&token.token_id) {
            return refuse(Reason::AlreadyExists, "this secret is in use: make a new one");
        }
        if self.index.tokens >= TOKENS_MAX {
            let message = format!("there are {TOKENS_MAX} tokens already: revoke some");
            return refuse(Reason::Limit, message);
        }
        self.tables.put(&token);
        self.index.add_token(&token);
        step.unseen();
        Ok(outcome::Kind::Token(Token { secret_sha256: Vec::new(), ..token }))
    }

    pub(super) fn redeem_token(
        &mut self,
        redeem: &RedeemToken,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let token = self.tables.get::<Token>(&token_id(&redeem.secret_sha256));
        let Some(token) = token.filter(|token| token.secret_sha256 == redeem.secret_sha256) else {
            return refuse(
                Reason::NotFound,
                "this token is unknown here: it was revoked, or made \
                                             for another mesh",
            );
        };
        if now_ms >= token.expires_ms {
            return refuse(Reason::Fenced, "this token expired: have a new one made");
        }
        if token.used_ms > 0 && token.key_sha256 != redeem.key_sha256 {
            return refuse(Reason::Fenced, "this token was used already: have a new one made");
        }
        let used = Token { used_ms: now_ms, key_sha256: redeem.key_sha256.clone(), ..token };
        self.tables.put(&used);
        step.unseen();
        Ok(outcome::Kind::Token(Token { secret_sha256: Vec::new(), ..used }))
    }

    pub(super) fn revoke_token(&mut self, token_id: &str, step: &mut Step) -> Answer {
        if !self.tables.contains::<Token>(token_id) {
            return refuse(Reason::NotFound, format!("there is no token {token_id}"));
        }
        self.forget_token(token_id);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn forget_token(&mut self, token_id: &str) {
        if let Some(token) = self.tables.get::<Token>(token_id) {
            self.index.remove_token(&token);
            self.tables.delete::<Token>(token_id);
        }
    }
}

impl super::Index {
    fn add_token(&mut self, token: &Token) {
        let due = self.count_token(token);
        self.expiries.extend(due);
    }

    /// When it is forgotten; `None` when its name is none of ours.
    pub(super) fn count_token(&mut self, token: &Token) -> Option<(u64, Expiry)> {
        self.tokens += 1;
        expiry(token)
    }

    fn remove_token(&mut self, token: &Token) {
        if let Some(expiry) = expiry(token) {
            self.expiries.remove(&expiry);
        }
        self.tokens = self.tokens.saturating_sub(1);
    }
}

fn expiry(token: &Token) -> Option<(u64, Expiry)> {
    let at_ms = token.expires_ms.saturating_add(REMEMBERED_MS);
    let id = u64::from_str_radix(&token.token_id, 16).ok()?;
    Some((at_ms, Expiry::Token(id)))
}

#[cfg(test)]
mod tests {
    use proto::raft::command::Kind;
    use proto::raft::{Command, Outcome};

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn apply(state: &mut State, at: u64, request_id: &str, kind: Kind) -> Outcome {
        let principal = "operator/anna".into();
        let command = Command { request_id: request_id.into(), principal, kind: Some(kind) };
        state.apply(at, &command).outcome
    }

    fn create(secret: u8) -> Kind {
        let token = Token {
            kind: "pop".into(),
            name: "sin1".into(),
            secret_sha256: vec![secret; 32],
            ..Token::default()
        };
        Kind::CreateToken(CreateToken { token: Some(token), ttl_ms: HOUR })
    }

    fn redeem(secret: u8, key: u8) -> Kind {
        let (secret_sha256, key_sha256) = (vec![secret; 32], vec![key; 32]);
        Kind::RedeemToken(RedeemToken { secret_sha256, key_sha256 })
    }

    fn refused(outcome: &Outcome) -> String {
        match &outcome.kind {
            Some(outcome::Kind::Rejected(rejected)) => rejected.message.clone(),
            _ => String::new(),
        }
    }

    #[test]
    fn a_token_lets_one_key_in_once() {
        let mut s = State::bootstrap(&[1]);
        let made = apply(&mut s, 1, "1", create(7));
        let Some(outcome::Kind::Token(token)) = made.kind else { panic!("{made:?}") };
        assert_eq!((token.expires_ms, token.created_by.as_str()), (1 + HOUR, "operator/anna"));
        assert!(token.secret_sha256.is_empty(), "the hash stays inside");
        assert!(refused(&apply(&mut s, 2, "2", create(7))).contains("in use"));
        assert_eq!(refused(&apply(&mut s, 3, "3", redeem(7, 1))), "");
        assert_eq!(refused(&apply(&mut s, 4, "4", redeem(7, 1))), "", "a lost answer");
        assert!(refused(&apply(&mut s, 5, "5", redeem(7, 2))).contains("used already"));
        assert!(refused(&apply(&mut s, 6, "6", redeem(8, 2))).contains("unknown"));
    }

    #[test]
    fn a_token_expires_and_is_forgotten_later() {
        let mut s = State::bootstrap(&[1]);
        apply(&mut s, 1, "1", create(7));
        assert!(refused(&apply(&mut s, 1 + HOUR, "2", redeem(7, 1))).contains("expired"));
        let copy =
            State::from_tables(s.tables.entries().map(|(k, v)| (k.to_vec(), v.to_vec().into())));
        assert_eq!(copy.unwrap().index, s.index);
        apply(&mut s, 2 + HOUR + REMEMBERED_MS, "3", redeem(9, 1));
        assert_eq!(s.tokens().count(), 0);
        assert_eq!(s.index.tokens, 0);
    }

    #[test]
    fn a_revoked_token_is_unknown() {
        let mut s = State::bootstrap(&[1]);
        apply(&mut s, 1, "1", create(7));
        let id = token_id(&[7; 32]);
        assert_eq!(refused(&apply(&mut s, 2, "2", Kind::RevokeToken(id.clone()))), "");
        assert!(refused(&apply(&mut s, 3, "3", redeem(7, 1))).contains("revoked"));
        assert!(refused(&apply(&mut s, 4, "4", Kind::RevokeToken(id))).contains("no token"));
    }
}
