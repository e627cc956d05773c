//! The end of a run: what is missing, and whether silence stays silent.
//!
//! Always true: only correct members are judged. Must not: mend anything.

use super::World;
use super::member::Node;
use crate::checker::Property;

impl World {
    /// Without work a replica may stay one instance behind, or alone in a regency: the next request
    /// has to repair that.
    pub(super) fn poke(&mut self) {
        self.coverage.count("requests to get everybody level");
        self.clients[0].ask_for_more();
        self.schedule_client(0);
    }

    pub(super) fn what_is_missing(&self) -> String {
        let mut text = format!("after {:?} of a good network:", self.options.bound);
        for (index, client) in self.clients.iter().enumerate() {
            let (waiting, returned) = client.progress();
            if !client.is_done() {
                text += &format!(" client {index} has {returned}, waits for {waiting};");
            }
        }
        for (at, node) in self.judged() {
            for host in &node.hosts {
                text += &format!(
                    " member {at}: view {}{}{} regency {} wanted {} stopped {} decided {} executed {} pending \
                     {}{};",
                    host.core.view().id(),
                    if host.core.is_joining() { " joining" } else { "" },
                    if host.core.is_between_views() { " ended" } else { "" },
                    host.core.regency(),
                    host.core.wanted(),
                    host.core.is_stopped(),
                    host.core.decided(),
                    host.executed,
                    host.core.pending(),
                    if host.behind { " behind" } else { "" },
                );
            }
        }
        text
    }

    /// Nothing is wanted any more: a while of silence must stay silent.
    pub(super) fn quiet(&mut self) {
        if !self.options.villains.is_empty() {
            return;
        }
        // Requests that their clients gave up may still wait for a leader with a grown timeout, and
        // so may a member that installed a regency whose leader is gone.
        let settle = self.options.timeout * 4;
        self.run_until(self.now + settle, |_| false);
        let waits = |node: &Node| {
            node.hosts.iter().any(|host| host.core.pending() > 0 || host.core.is_stopped())
        };
        if self.nodes.iter().any(waits) {
            self.run_until(self.now + settle * 64, |_| false);
        }
        let newest = |world: &World| {
            let regencies = world.judged().flat_map(|(_, node)| &node.hosts);
            regencies.map(|host| host.core.regency()).max()
        };
        let (before, regency) = (self.sent, newest(self));
        let timeouts = 20;
        self.run_until(self.now + self.options.timeout * timeouts, |_| false);
        let n = self.view.n() as u64;
        // A status every quarter of the timeout to each other, and as much again for answers.
        let allowed = 8 * (u64::from(timeouts) + 1) * n * n;
        let sent = self.sent - before;
        if sent > allowed {
            let text = format!("{sent} messages while nothing was wanted, {allowed} expected");
            self.checker.fail(Property::Resources, text);
        }
        // Who enters another view meanwhile begins with its first regency.
        if newest(self) != regency && self.options.changes.is_none() {
            let text = format!("from {regency:?} to {:?} while nothing was wanted", newest(self));
            self.checker.fail(Property::Regency, text);
        }
    }
}
