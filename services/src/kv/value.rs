//! What a key can hold, and what it weighs.
//!
//! Always true: iteration order depends only on the operations executed; the weight of a value is
//! known without walking it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::text_value::Text;

/// Bytes that a list element, a field or a member weighs beside its content.
const ELEMENT_OVERHEAD: usize = 32;

/// The four types, numbered as in snapshots and operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Bytes.
    String = 1,
    /// Elements in a row.
    List = 2,
    /// Fields with values.
    Hash = 3,
    /// Distinct members.
    Set = 4,
}

impl Kind {
    /// The name that TYPE answers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Hash => "hash",
            Kind::Set => "set",
        }
    }

    /// The kind of a name, in any case.
    pub fn of_name(name: &[u8]) -> Option<Self> {
        [Kind::String, Kind::List, Kind::Hash, Kind::Set]
            .into_iter()
            .find(|kind| name.eq_ignore_ascii_case(kind.name().as_bytes()))
    }

    /// The kind with a number.
    pub fn of_number(number: u8) -> Option<Self> {
        [Kind::String, Kind::List, Kind::Hash, Kind::Set]
            .into_iter()
            .find(|&kind| kind as u8 == number)
    }
}

/// A list and its weight.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct List {
    items: VecDeque<Box<[u8]>>,
    weight: usize,
}

impl List {
    /// The elements, head first.
    pub fn items(&self) -> &VecDeque<Box<[u8]>> {
        &self.items
    }

    /// Adds an element at the head or the tail.
    pub fn push(&mut self, head: bool, item: &[u8]) {
        self.weight += item.len() + ELEMENT_OVERHEAD;
        if head {
            self.items.push_front(item.into());
        } else {
            self.items.push_back(item.into());
        }
    }

    /// Takes an element from the head or the tail.
    pub fn pop(&mut self, head: bool) -> Option<Box<[u8]>> {
        let item = if head { self.items.pop_front() } else { self.items.pop_back() }?;
        self.weight -= item.len() + ELEMENT_OVERHEAD;
        Some(item)
    }
}

/// A hash and its weight. Fields are kept in byte order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hash {
    fields: BTreeMap<Box<[u8]>, Box<[u8]>>,
    weight: usize,
}

impl Hash {
    /// Fields and values, in byte order of the fields.
    pub fn fields(&self) -> &BTreeMap<Box<[u8]>, Box<[u8]>> {
        &self.fields
    }

    /// Sets a field and says whether it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8]) -> bool {
        if let Some(slot) = self.fields.get_mut(field) {
            self.weight = self.weight - slot.len() + value.len();
            if slot.len() == value.len() {
                slot.copy_from_slice(value);
            } else {
                *slot = value.into();
            }
            return false;
        }
        self.weight += field.len() + value.len() + ELEMENT_OVERHEAD;
        self.fields.insert(field.into(), value.into());
        true
    }

    /// Removes a field and says whether it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let Some(value) = self.fields.remove(field) else { return false };
        self.weight -= field.len() + value.len() + ELEMENT_OVERHEAD;
        true
    }
}

/// A set and its weight. Members are kept in byte order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Set {
    members: BTreeSet<Box<[u8]>>,
    weight: usize,
}

impl Set {
    /// The members, in byte order.
    pub fn members(&self) -> &BTreeSet<Box<[u8]>> {
        &self.members
    }

    /// Adds a member and says whether it is new.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        if self.members.contains(member) {
            return false;
        }
        self.weight += member.len() + ELEMENT_OVERHEAD;
        self.members.insert(member.into())
    }

    /// Removes a member and says whether it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let removed = self.members.remove(member);
        if removed {
            self.weight -= member.len() + ELEMENT_OVERHEAD;
        }
        removed
    }
}

/// What a key holds. Collections are boxed: most values are strings, and an entry should be small.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Bytes.
    String(Text),
    /// Elements in a row.
    List(Box<List>),
    /// Fields with values.
    Hash(Box<Hash>),
    /// Distinct members.
    Set(Box<Set>),
}

impl Value {
    /// Nothing of a kind.
    pub fn empty(kind: Kind) -> Self {
        match kind {
            Kind::String => Value::String(Text::new(&[])),
            Kind::List => Value::List(Box::default()),
            Kind::Hash => Value::Hash(Box::default()),
            Kind::Set => Value::Set(Box::default()),
        }
    }

    /// Which type it is.
    pub fn kind(&self) -> Kind {
        match self {
            Value::String(_) => Kind::String,
            Value::List(_) => Kind::List,
            Value::Hash(_) => Kind::Hash,
            Value::Set(_) => Kind::Set,
        }
    }

    /// Bytes it counts for against `state_size_max`.
    pub fn weight(&self) -> usize {
        match self {
            Value::String(bytes) => bytes.len(),
            Value::List(list) => list.weight,
            Value::Hash(hash) => hash.weight,
            Value::Set(set) => set.weight,
        }
    }

    /// Is it a collection without elements? Such a key ceases to exist.
    pub fn is_vanished(&self) -> bool {
        match self {
            Value::String(_) => false,
            Value::List(list) => list.items.is_empty(),
            Value::Hash(hash) => hash.fields.is_empty(),
            Value::Set(set) => set.members.is_empty(),
        }
    }
}
