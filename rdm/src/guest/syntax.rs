//! The syntax of xl.cfg (xl.cfg(5), "SYNTAX"): `NAME = VALUE` and `NAME += VALUE`, a value being a number, a
//! quoted string or a list of them; `#` begins a comment.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong: the value and the rule.
    pub sentence: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.sentence)
    }
}

impl std::error::Error for ConfigError {}

/// A number or a string as it is written, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atom {
    /// What it says, without quotes.
    pub text: String,
    /// Its line.
    pub line: usize,
}

/// What a name is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// One of them.
    Atom(Atom),
    /// A list.
    List(Vec<Value>),
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name.
    pub name: String,
    /// Its line.
    pub line: usize,
    /// What it is set to in the end.
    pub value: Value,
}

/// The settings of a file: of a name that is set twice, the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(Vec<Setting>);

impl Config {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first thing that is no setting.
    pub fn read(text: &str) -> Result<Self, ConfigError> {
        let mut reader = Reader { rest: text.chars().peekable(), line: 1 };
        let mut config = Self::default();
        while let Some((setting, adds)) = reader.setting()? {
            config.set(setting, adds)?;
        }
        Ok(config)
    }

    /// The setting of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.name == name)
    }

    fn set(&mut self, setting: Setting, adds: bool) -> Result<(), ConfigError> {
        let Some(known) = self.0.iter_mut().find(|known| known.name == setting.name) else {
            self.0.push(setting);
            return Ok(());
        };
        if !adds {
            *known = setting;
            return Ok(());
        }
        match (&mut known.value, setting.value) {
            (Value::Atom(known), Value::Atom(more)) => known.text.push_str(&more.text),
            (Value::List(known), Value::List(more)) => known.extend(more),
            _ => {
                let sentence =
                    format!("{} +=: a list is added to a list, and a string to a string", setting.name);
                return Err(ConfigError { line: setting.line, sentence });
            }
        }
        Ok(())
    }
}

/// How deep lists may lie in lists. xl's own are two deep at most.
const DEPTH: usize = 8;

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
}

impl Reader<'_> {
    fn wrong(&self, sentence: impl Into<String>) -> ConfigError {
        ConfigError { line: self.line, sentence: sentence.into() }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    /// Passes over blanks and comments, and over line ends where they count as blanks.
    fn skip(&mut self, lines: bool) {
        while let Some(&next) = self.rest.peek() {
            match next {
                '#' => {
                    while self.rest.peek().is_some_and(|&next| next != '\n') {
                        self.rest.next();
                    }
                }
                '\n' if !lines => return,
                next if next.is_ascii_whitespace() => _ = self.next(),
                _ => return,
            }
        }
    }

    /// The characters that `belongs` says yes to.
    fn word(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(next) = self.rest.next_if(|&next| belongs(next)) {
            word.push(next);
        }
        word
    }

    /// The next setting, and whether it adds to what was there.
    fn setting(&mut self) -> Result<Option<(Setting, bool)>, ConfigError> {
        loop {
            self.skip(true);
            match self.rest.peek() {
                None => return Ok(None),
                Some(';') => _ = self.next(),
                Some(_) => break,
            }
        }
        let line = self.line;
        let name = self.word(|next| next.is_ascii_alphanumeric() || next == '_');
        if !name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
            return Err(self.wrong(format!("{}: a line is NAME = VALUE", self.seen(&name))));
        }
        self.skip(false);
        let adds = self.rest.next_if_eq(&'+').is_some();
        if self.rest.next_if_eq(&'=').is_none() {
            return Err(self.wrong(format!("{name}: behind a name comes = or +=, not {}", self.seen(""))));
        }
        self.skip(false);
        let value = self.value(&name, 0)?;
        self.skip(false);
        match self.rest.peek() {
            None | Some('\n' | ';') => Ok(Some((Setting { name, line, value }, adds))),
            Some(_) => Err(self.wrong(format!("{name}: behind its value comes {}", self.seen("")))),
        }
    }

    /// What is there, for a sentence.
    fn seen(&self, word: &str) -> String {
        match (word, self.rest.clone().next()) {
            ("", None) => "the end of the file".into(),
            ("", Some('\n')) => "the end of the line".into(),
            (word, next) => format!("{:?}", word.chars().chain(next).collect::<String>()),
        }
    }

    fn value(&mut self, name: &str, depth: usize) -> Result<Value, ConfigError> {
        match self.rest.peek() {
            Some('[') if depth >= DEPTH => {
                Err(self.wrong(format!("{name}: lists lie in lists at most {DEPTH} deep")))
            }
            Some('[') => self.list(name, depth),
            Some('"' | '\'') => self.string(name).map(Value::Atom),
            Some(first) if first.is_ascii_digit() => {
                let text = self.word(|next| next.is_ascii_hexdigit() || next == 'x' || next == 'X');
                Ok(Value::Atom(Atom { text, line: self.line }))
            }
            _ => Err(self.wrong(format!(
                "{name}: a value is a number, a string in quotes, or a list in brackets, not {}",
                self.seen("")
            ))),
        }
    }

    fn list(&mut self, name: &str, depth: usize) -> Result<Value, ConfigError> {
        let start = self.line;
        self.next();
        let mut items = Vec::new();
        loop {
            self.skip(true);
            match self.rest.peek() {
                Some(']') => break,
                None => {
                    let sentence = format!("{name}: the list has no ] at its end");
                    return Err(ConfigError { line: start, sentence });
                }
                _ => {}
            }
            items.push(self.value(name, depth + 1)?);
            self.skip(true);
            match self.rest.peek() {
                Some(',') => _ = self.next(),
                Some(']') | None => {}
                _ => {
                    return Err(self.wrong(format!(
                        "{name}: between the items of a list comes a comma, not {}",
                        self.seen("")
                    )));
                }
            }
        }
        self.next();
        Ok(Value::List(items))
    }

    fn string(&mut self, name: &str) -> Result<Atom, ConfigError> {
        let line = self.line;
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => {
                    let sentence = format!("{name}: the string {text:?} has no closing quote in its line");
                    return Err(ConfigError { line, sentence });
                }
                next if next == quote => return Ok(Atom { text, line }),
                Some('\\') => text.push(self.escape(name)?),
                Some(next) => text.push(next),
            }
        }
    }

    /// What a backslash begins.
    fn escape(&mut self, name: &str) -> Result<char, ConfigError> {
        let next = self.next();
        Ok(match next {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(same @ ('\\' | '"' | '\'')) => same,
            Some('x') => {
                let digits: String = self.rest.by_ref().take(2).collect();
                let byte = u8::from_str_radix(&digits, 16).ok().filter(u8::is_ascii);
                let byte = byte.ok_or_else(|| {
                    self.wrong(format!("{name}: \\x{digits}: two hexadecimal digits of ASCII"))
                })?;
                char::from(byte)
            }
            other => {
                let seen: String = other.into_iter().collect();
                return Err(
                    self.wrong(format!("{name}: \\{seen}: after a backslash comes one of n t r x \\ ' \""))
                );
            }
        })
    }
}
