//! What happens when, as a line of text: `120:kill leader,240:restart killed`.
//!
//! Always true: events are in order of time, and the script ends after the last one.

use std::str::FromStr;

use serde::Serialize;

/// Something that is done to a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// SIGKILL to the leader of that moment.
    KillLeader,
    /// SIGKILL to a replica.
    Kill(u16),
    /// The replica that was killed last starts again, with what is on its disk.
    RestartKilled,
    /// A replica starts again.
    Restart(u16),
    /// A replica that was none becomes a member: the one after the last.
    Add(u16),
    /// A replica is a member no more.
    Remove(u16),
}

impl FromStr for Deed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known =
            "known are: kill leader, kill ID, restart killed, restart ID, add ID, remove ID";
        let words: Vec<&str> = text.split_whitespace().collect();
        let id = |word: &str| {
            word.parse::<u16>().map_err(|_| format!("'{word}' is no replica's number; {known}"))
        };
        match words[..] {
            ["kill", "leader"] => Ok(Self::KillLeader),
            ["kill", word] => id(word).map(Self::Kill),
            ["restart", "killed"] => Ok(Self::RestartKilled),
            ["restart", word] => id(word).map(Self::Restart),
            ["add", word] => id(word).map(Self::Add),
            ["remove", word] => id(word).map(Self::Remove),
            _ => Err(format!("'{text}' is no event; {known}")),
        }
    }
}

/// When something is done.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Step {
    /// Seconds from the start of the load.
    pub at: f64,
    /// What.
    pub deed: Deed,
}

/// A run.
#[derive(Clone, PartialEq, Debug)]
pub struct Script {
    /// In order of time.
    pub steps: Vec<Step>,
    /// Seconds that the load lasts.
    pub end: f64,
}

/// `10 minutes` of the thesis are so many seconds at most here.
const SECONDS_MAX: f64 = 86_400.0;

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut steps, mut end): (Vec<Step>, Option<f64>) = (Vec::new(), None);
        for part in text.split(',').map(str::trim) {
            let (time, what) = part
                .split_once(':')
                .ok_or_else(|| format!("'{part}' is not SECONDS:EVENT, as in 40:kill leader"))?;
            let at = time.trim().parse::<f64>().ok().filter(|at| (0.0..=SECONDS_MAX).contains(at));
            let at = at.ok_or_else(|| format!("'{time}' is no time, in seconds up to 86400"))?;
            let last = end.or(steps.last().map(|step| step.at)).unwrap_or(0.0);
            if end.is_some() || at < last {
                return Err(format!("'{part}' comes after what is later; give events in order"));
            }
            match what.trim() {
                "end" => end = Some(at),
                what => steps.push(Step { at, deed: what.parse()? }),
            }
        }
        let end = end.ok_or("the last part has to say when the run is over, as in 60:end")?;
        Ok(Self { steps, end })
    }
}

impl Script {
    /// Replicas that become members, in order of time.
    pub fn added(&self) -> impl Iterator<Item = u16> + '_ {
        self.steps.iter().filter_map(|step| match step.deed {
            Deed::Add(id) => Some(id),
            _ => None,
        })
    }

    /// The same, in a fraction or a multiple of the time.
    pub fn scaled(mut self, by: f64) -> Self {
        self.steps.iter_mut().for_each(|step| step.at *= by);
        self.end *= by;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_in_order_and_scaled() {
        let script: Script =
            "4:kill leader, 8.5:restart killed,9:kill 2,9:restart 2,9:add 4,10:remove 0,12:end"
                .parse()
                .expect("a script");
        let deeds: Vec<_> = script.steps.iter().map(|step| step.deed).collect();
        let expected = [
            Deed::KillLeader,
            Deed::RestartKilled,
            Deed::Kill(2),
            Deed::Restart(2),
            Deed::Add(4),
            Deed::Remove(0),
        ];
        assert_eq!(deeds, expected);
        let half = script.scaled(0.5);
        assert_eq!((half.steps[1].at, half.end), (4.25, 6.0));
    }

    #[test]
    fn what_is_no_script_is_named() {
        for (text, part) in [
            ("", "SECONDS:EVENT"),
            ("4:kill leader", "end"),
            ("4:end,5:kill leader", "in order"),
            ("4:kill leader,3:end", "in order"),
            ("-1:end", "no time"),
            ("1e9:end", "no time"),
            ("1:kill you,2:end", "no replica's number"),
            ("1:stop,2:end", "no event"),
        ] {
            let error = text.parse::<Script>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
