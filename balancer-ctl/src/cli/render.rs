//! Colours and numbers for people. Pure.

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr as _;

/// How good what a word says is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not as it always should be, or wanted so for a while.
    Notable,
    /// Something does not work.
    Bad,
}

impl Tone {
    /// The word in the colour of this tone, with the terminal's escape sequences.
    pub fn paint(self, word: &str) -> String {
        let color = match self {
            Self::Good => AnsiColor::Green,
            Self::Notable => AnsiColor::Yellow,
            Self::Bad => AnsiColor::Red,
        };
        let style = Style::new().fg_color(Some(color.into()));
        format!("{style}{word}{style:#}")
    }
}

/// Columns of a terminal that a text takes: none for escape sequences, two for a wide character.
pub fn width_of(text: &str) -> usize {
    strip_str(text).to_string().width()
}

/// Sentences, a line each.
pub fn as_lines(sentences: &[String]) -> String {
    let lines = sentences.iter().map(|sentence| format!("{sentence}\n"));
    lines.collect()
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// All digits.
    Exact,
    /// Three digits and a unit from 1000 on: 1.23K, 45.6M.
    Scaled,
}

impl Numbers {
    /// Writes a number, rounded down.
    pub fn write(self, number: u64) -> String {
        if self == Self::Exact || number < 1000 {
            return number.to_string();
        }
        let mut unit = 1;
        let mut units = "KMGTPE".chars();
        let mut letter = ' ';
        while number / unit >= 1000
            && let Some(next) = units.next()
        {
            unit *= 1000;
            letter = next;
        }
        let whole = number / unit;
        match whole {
            0..10 => format!("{whole}.{:02}{letter}", number % unit / (unit / 100)),
            10..100 => format!("{whole}.{}{letter}", number % unit / (unit / 10)),
            100.. => format!("{whole}{letter}"),
        }
    }
}

/// A number with its noun.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_scaled_without_rounding_up() {
        for (number, scaled) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00K"),
            (1_239, "1.23K"),
            (12_399, "12.3K"),
            (123_999, "123K"),
            (999_999, "999K"),
            (1_000_000, "1.00M"),
            (45_678_901, "45.6M"),
            (9_999_999_999, "9.99G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(Numbers::Scaled.write(number), scaled);
            assert_eq!(Numbers::Exact.write(number), number.to_string());
        }
    }
}
