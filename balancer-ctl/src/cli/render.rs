//! Tables and numbers for people. Pure.

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Space between columns.
const GAP: &str = "  ";

/// Formats rows, each column as wide as its widest cell; a row may have fewer cells than others.
pub fn table(align: &[Align], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..align.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(align.iter().zip(&widths))
            .map(|(cell, (align, width))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
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
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let rows =
            ["a 1 x", "long 234", "é 5 y"].map(|row| row.split(' ').map(str::to_owned).collect());
        assert_eq!(
            table(&[Align::Left, Align::Right, Align::Left], &rows),
            "a       1  x\n\
             long  234\n\
             é       5  y\n"
        );
    }

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
