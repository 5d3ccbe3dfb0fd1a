//! Raft as far as governing rests on it: terms, logs, commits, and the promise of those who acknowledged a heartbeat to elect nobody
//! else for a while. Elections are decided at one moment; everything else goes through the network.

use super::{Message, NODES_MAX, World};
use crate::raft::command::{Command, Reply};

/// An entry; a log is the number of its last entry.
pub struct Entry {
    pub parent: usize,
    pub term: u64,
    pub index: usize,
    /// None: the first entry of a leader, or one with which it makes sure of something.
    pub command: Option<Command>,
}

/// What a raft instance keeps, also when its process ends.
#[derive(Clone, Default)]
pub struct Log {
    pub term: u64,
    pub tip: usize,
    /// The term of the leader that it has its log from.
    pub accepted: u64,
}

/// What a leader knows.
#[derive(Clone)]
pub struct Leading {
    pub term: u64,
    /// How far each log is known to be like its own.
    pub lengths: [usize; NODES_MAX],
    /// When the last heartbeat was sent that each has acknowledged.
    pub beats: [i64; NODES_MAX],
    pub beaten_ms: i64,
    /// The entry after which it governs.
    pub barrier: usize,
}

impl World {
    pub fn length(&self, n: usize) -> usize {
        self.entries[self.nodes[n].log.tip].index
    }

    /// Adds an entry to the leader's log.
    pub fn append(&mut self, n: usize, command: Option<Command>) -> usize {
        let log = &mut self.nodes[n].log;
        let index = self.entries[log.tip].index + 1;
        self.entries.push(Entry { parent: log.tip, term: log.term, index, command });
        log.tip = self.entries.len() - 1;
        let length = self.length(n);
        if let Some(leading) = &mut self.nodes[n].leading {
            leading.lengths[n] = length;
        }
        self.send_appends(n);
        index
    }

    pub fn send_appends(&mut self, n: usize) {
        let now_ms = self.clock(n);
        let node = &mut self.nodes[n];
        let Some(leading) = &mut node.leading else { return };
        (leading.beaten_ms, leading.beats[n]) = (now_ms, now_ms);
        let message = Message::Append { term: leading.term, tip: node.log.tip, commit: node.commit, beat: now_ms };
        for to in (0..self.nodes.len()).filter(|to| *to != n) {
            self.send(n, to, message.clone());
        }
    }

    pub fn quorum_ms(&self, n: usize) -> Option<i64> {
        let leading = self.nodes[n].leading.as_ref()?;
        let mut beats = leading.beats[..self.nodes.len()].to_vec();
        beats[n] = self.clock(n);
        beats.sort_unstable();
        // Two of three, three of five have acknowledged this one or a later one.
        Some(beats[self.nodes.len() / 2]).filter(|beat| *beat > i64::MIN)
    }

    pub fn take_append(&mut self, n: usize, from: usize, term: u64, tip: usize, commit: usize, beat: i64) {
        let now_ms = self.clock(n);
        let election_ms = i64::from(self.settings.election_ms);
        if term < self.nodes[n].log.term {
            let term = self.nodes[n].log.term;
            return self.send(n, from, Message::Newer { term });
        }
        if term > self.nodes[n].log.term {
            self.step_down(n, term);
        }
        let (own, its) = (self.length(n), self.entries[tip].index);
        let node = &mut self.nodes[n];
        node.promised_ms = now_ms + election_ms;
        node.elects_ms = node.promised_ms + self.random.below(election_ms as u64) as i64;
        node.leader = from;
        if (term, its) >= (node.log.accepted, own) {
            (node.log.tip, node.log.accepted) = (tip, term);
        }
        if node.log.accepted == term {
            let length = self.length(n);
            self.nodes[n].commit = self.nodes[n].commit.max(commit.min(length));
            self.send(n, from, Message::Ack { term, length, beat });
        }
    }

    pub fn take_ack(&mut self, n: usize, from: usize, term: u64, length: usize, beat: i64) -> Result<(), String> {
        let quorum = self.nodes.len() / 2;
        let Some(leading) = self.nodes[n].leading.as_mut().filter(|leading| leading.term == term) else {
            return Ok(());
        };
        leading.lengths[from] = leading.lengths[from].max(length);
        leading.beats[from] = leading.beats[from].max(beat);
        let mut lengths = leading.lengths[..quorum * 2 + 1].to_vec();
        lengths.sort_unstable();
        let upto = lengths[quorum];
        if upto <= self.nodes[n].commit {
            return Ok(());
        }
        let mut path = Vec::new();
        let mut at = self.nodes[n].log.tip;
        while self.entries[at].index > 0 {
            if self.entries[at].index <= upto {
                path.push(at);
            }
            at = self.entries[at].parent;
        }
        if self.entries[path[0]].term != term {
            return Ok(());
        }
        self.nodes[n].commit = upto;
        for entry in path.into_iter().rev() {
            let index = self.entries[entry].index;
            match self.committed.get(index - 1) {
                Some(same) if *same == entry => {}
                Some(_) => return Err("the model of raft is wrong: another entry was committed".into()),
                None => self.commit(entry)?,
            }
        }
        self.send_appends(n);
        Ok(())
    }

    fn commit(&mut self, entry: usize) -> Result<(), String> {
        let mut state = self.states.last().expect("there is a first one").clone();
        let reply = self.entries[entry].command.as_ref().map_or(Reply::Nothing, |command| state.apply(command));
        self.say(|| match &self.entries[entry].command {
            Some(command) => format!("{}: {command}: {reply:?}", self.entries[entry].index),
            None => format!("{}: a leader begins", self.entries[entry].index),
        });
        self.committed.push(entry);
        self.replies.push(reply);
        self.judge_change(entry, &state)?;
        self.states.push(state);
        Ok(())
    }

    pub fn step_down(&mut self, n: usize, term: u64) {
        let node = &mut self.nodes[n];
        node.log.term = term;
        if node.leading.take().is_some() {
            node.governor.resign();
            node.proposed.clear();
        }
    }

    /// Whether `v` votes for `n`.
    fn votes(&self, v: usize, n: usize) -> bool {
        let (voter, now_ms) = (&self.nodes[v], self.clock(v));
        let last = |at: usize| (self.entries[self.nodes[at].log.tip].term, self.length(at));
        let leads = voter.leading.is_some()
            && self.quorum_ms(v).is_some_and(|beat| now_ms < beat + i64::from(self.settings.election_ms));
        voter.runs(self.now_us)
            && now_ms >= voter.promised_ms
            && now_ms >= voter.mute_ms
            && !leads
            && !self.cut[v][n]
            && last(n) >= last(v)
    }

    /// The node stands for election, if it is time.
    pub fn elect(&mut self, n: usize) {
        let now_ms = self.clock(n);
        let node = &self.nodes[n];
        if node.leading.is_some() || now_ms < node.elects_ms || !self.votes(n, n) {
            return;
        }
        let retry_ms = self.random.below(u64::from(self.settings.election_ms)) as i64;
        self.nodes[n].elects_ms = now_ms + 20 + retry_ms;
        let voters: Vec<usize> = (0..self.nodes.len()).filter(|v| self.votes(*v, n)).collect();
        if voters.len() <= self.nodes.len() / 2 {
            return;
        }
        let term = voters.iter().map(|v| self.nodes[*v].log.term).max().unwrap_or(0) + 1;
        for v in voters {
            self.step_down(v, term);
        }
        self.say(|| format!("node {n} leads raft in term {term}"));
        let node = &mut self.nodes[n];
        node.log.accepted = term;
        node.leader = n;
        node.leading = Some(Leading {
            term,
            lengths: [0; NODES_MAX],
            beats: [i64::MIN; NODES_MAX],
            beaten_ms: now_ms,
            barrier: 0,
        });
        self.seen.elections += 1;
        let barrier = self.append(n, None);
        if let Some(leading) = &mut self.nodes[n].leading {
            leading.barrier = barrier;
        }
    }
}
