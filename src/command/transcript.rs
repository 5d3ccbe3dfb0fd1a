//! A client without a socket, for tests: runs commands the way the network layer does, on an engine of one core.

use std::sync::Arc;

use super::log::{LogAnswer, LogAsk};
use super::session::NetInfo;
use super::{Answer, Ask, Flow, Handler, Owned, Session, table};
use crate::cluster::Identity;
use crate::config::Config;
use crate::engine::{Call, Engine, Origin, Refusal};
use crate::resp::{Output, Reply};
use crate::route::{Hasher, Router};
use crate::state::NodeState;

/// One client of a server with one core.
pub struct Client {
    pub engine: Engine,
    pub session: Session,
    /// What the last session command wanted to happen.
    pub flow: Flow,
    /// Questions about connections that were asked, with the answers of a core that has only this client.
    pub asked: Vec<Ask>,
}

/// Moment at which these tests run, Unix ms.
pub const NOW_MS: i64 = 1_700_000_000_123;

#[allow(clippy::new_without_default)]
impl Client {
    pub fn new() -> Client {
        Client::with(Config::default())
    }

    pub fn with(config: Config) -> Client {
        let router = Router::new(0, 1, 256);
        let mut state = NodeState::new(Arc::new(config));
        state.identity = state.config.with(|config| config.cluster_enabled).then_some(Identity(1));
        let mut engine = Engine::of_node(router, Hasher::new(256, [1, 2, 3, 4]), Arc::new(state), 7);
        engine.shard.set_now(NOW_MS);
        let session = Session {
            id: 1,
            addr: "127.0.0.1:5000".into(),
            laddr: "127.0.0.1:6379".into(),
            authenticated: true,
            created_ms: NOW_MS - 5000,
            net: NetInfo { fd: 9, ..NetInfo::default() },
            ..Session::default()
        };
        Client { engine, session, flow: Flow::Done, asked: Vec::new() }
    }

    /// Runs the words of `line`; the reply with `|` for each line end.
    pub fn run(&mut self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        self.run_args(&args)
    }

    pub fn run_args(&mut self, args: &[&[u8]]) -> String {
        let reply = String::from_utf8_lossy(&self.run_raw(args)).replace("\r\n", "|");
        reply.strip_suffix('|').unwrap_or(&reply).to_string()
    }

    /// Runs a command; the bytes of its reply.
    pub fn run_raw(&mut self, args: &[&[u8]]) -> Vec<u8> {
        self.flow = Flow::Done;
        self.engine.start_clock();
        let mut output = Output::new();
        let row = match self.engine.admit(table().resolve(args), &mut self.session, args) {
            Ok(row) => row,
            Err(Refusal::Disconnect) => return b"<disconnect>".to_vec(),
            Err(Refusal::Error(error)) => {
                Reply::new(&mut output, self.session.version).error(&error);
                return output.to_vec();
            }
        };
        let mut reply = Reply::new(&mut output, self.session.version);
        if let Handler::Keyspace(_) = row.command.handler {
            let owned = Owned::default();
            let origin = Origin::Client(&self.session);
            let call = Call {
                row,
                args,
                first: None,
                db: self.session.db,
                no_touch: false,
                owned: &owned,
                origin,
                counted: true,
            };
            self.engine.call(call, &mut reply);
            return output.to_vec();
        }
        let mut flow = self.engine.call_session(row, &mut self.session, args, &mut reply);
        while let Flow::Ask(questions, finish) = flow {
            let answers = questions.into_iter().map(|(_, ask)| self.answer(ask)).collect();
            flow = self.engine.finish_session(row, &mut self.session, finish, answers, &mut reply);
        }
        self.flow = flow;
        output.to_vec()
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        self.engine.answer(ask).unwrap_or_else(|ask| {
            self.asked.push(ask.clone());
            match ask {
                Ask::Clients(filter) => Answer::Clients(
                    Some(self.session.clone()).filter(|s| filter.matches(s, NOW_MS)).into_iter().collect(),
                ),
                Ask::Log(LogAsk::Numbers) => Answer::Log(LogAnswer::Numbers(Box::default())),
                Ask::Log(_) => Answer::Log(LogAnswer::Done),
                Ask::Kill { .. } | Ask::Unblock { .. } => Answer::Count(0),
                _ => Answer::Done,
            }
        })
    }

    /// Runs `line` and compares its reply, written with `|` for each line end.
    #[track_caller]
    pub fn expect(&mut self, line: &str, reply: &str) {
        assert_eq!(self.run(line), reply, "{line}");
    }
}
