//! Figures as people read them.

/// A number with commas between the thousands.
pub fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let is_zero = text.chars().all(|c| matches!(c, '0' | '.'));
    let mut out = String::from(if value < 0.0 && !is_zero { "-" } else { "" });
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out += fraction;
    }
    out
}

/// A number with about three digits.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if size >= 99.95 || size == 0.0 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.0995 => 2,
        _ => 4,
    };
    grouped(value, decimals)
}

/// Nanoseconds.
pub fn duration(nanoseconds: f64) -> String {
    scaled(nanoseconds, 1000.0, &["ns", "µs", "ms", "s"])
}

/// Bytes.
pub fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A size that somebody chose: without decimals.
pub fn size(bytes: u32) -> String {
    match bytes {
        _ if bytes > 0 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes > 0 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{} B", grouped(f64::from(bytes), 0)),
    }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter().peekable();
    while let Some(unit) = units.next() {
        // What would be rounded to a whole step is shown in the next unit.
        if value.abs() < step - 0.5 || units.peek().is_none() {
            return format!("{} {unit}", number(value));
        }
        value /= step;
    }
    number(value)
}

/// Bytes in a second, always in MB/s, so that a column can be compared by eye.
pub fn megabytes(value: f64) -> String {
    number(value / 1e6)
}

/// A round figure at an axis, as another function shows it: without decimals that say nothing.
pub fn tick(value: f64, show: impl Fn(f64) -> String) -> String {
    show(value).replace(".00", "").replace(".0 ", " ")
}

/// A ratio.
pub fn ratio(value: f64) -> String {
    format!("{}×", number(value))
}

/// A difference, as another function shows it, with its sign.
pub fn signed(value: f64, show: impl Fn(f64) -> String) -> String {
    let text = show(value);
    if value > 0.0 { format!("+{text}") } else { text }
}

/// A noun with its number.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let shown: Vec<String> =
            [0.0, 7.0, 999.0, 1000.0, 1_234_567.0, -1234.0].map(|v| grouped(v, 0)).into();
        assert_eq!(shown, ["0", "7", "999", "1,000", "1,234,567", "-1,234"]);
        assert_eq!(grouped(1234.5, 2), "1,234.50");
        assert_eq!(grouped(-0.001, 2), "0.00");
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let shown: Vec<String> =
            [0.0, 850.0, 1234.0, 12_340.0, 999_600.0, 2.5e6, 3.2e9, 7.2e12].map(duration).into();
        assert_eq!(
            shown,
            ["0 ns", "850 ns", "1.23 µs", "12.3 µs", "1.00 ms", "2.50 ms", "3.20 s", "7,200 s"]
        );
        let shown: Vec<String> = [0.0, 512.0, 1536.0, -2048.0, 3e6, 5e15].map(bytes).into();
        assert_eq!(shown, ["0 B", "512 B", "1.50 KiB", "-2.00 KiB", "2.86 MiB", "4,547 TiB"]);
        assert_eq!([1e3, 1e4, 1.5e3].map(|v| tick(v, duration)), ["1 µs", "10 µs", "1.50 µs"]);
        assert_eq!([0, 1500, 65_536, 2 << 20].map(size), ["0 B", "1,500 B", "64 KiB", "2 MiB"]);
        assert_eq!(megabytes(1.234_6e9), "1,235");
        assert_eq!(ratio(0.456), "0.46×");
        assert_eq!(ratio(0.0123), "0.0123×");
        assert_eq!(signed(1.5, number), "+1.50");
        assert_eq!(signed(-1.5, number), "-1.50");
        assert_eq!(signed(0.0, number), "0");
        assert_eq!(count(1, "row", "rows") + ", " + &count(2, "row", "rows"), "1 row, 2 rows");
    }
}
