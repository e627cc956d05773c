//! Plots as inline SVG: no script, colours by style sheet, so that a page follows its reader's light
//! or dark setting.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 52.0;

/// Colours that the style sheet has.
pub const COLOURS: usize = 8;

/// How values become places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Equal distances are equal differences; begins at zero.
    Linear,
    /// Equal distances are equal factors.
    Log,
}

/// What the numbers of an axis are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Microseconds, shown with the unit that fits.
    Time,
    /// Something that is counted.
    Count,
    /// Percentiles by the share above them: 1 is 90 %, 2 is 99 %.
    Tail,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: &'static str,
    /// How.
    pub scale: Scale,
    /// Of which kind.
    pub unit: Unit,
}

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Curve {
    /// In the legend.
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
    /// Which colour.
    pub colour: usize,
    /// Broken, to tell it from another of the same colour.
    pub dashed: bool,
    /// A dot on each point.
    pub dots: bool,
}

/// Something that happened at a place of the x axis.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Where.
    pub at: f64,
    /// What.
    pub text: String,
}

/// Lines over two axes.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The lines.
    pub curves: Vec<Curve>,
    /// Upright lines with a text each, from left to right.
    pub marks: Vec<Mark>,
}

/// The axis with its range and ticks.
struct Range {
    least: f64,
    most: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Range {
    fn of(axis: &Axis, values: impl Iterator<Item = f64> + Clone) -> Self {
        let log = axis.scale == Scale::Log;
        let usable = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
        let (least, most) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), v| {
            (least.min(v), most.max(v))
        });
        if !least.is_finite() {
            let (least, most) = if log { (1.0, 10.0) } else { (0.0, 1.0) };
            return Self { least, most, log, ticks: vec![least, most] };
        }
        match (axis.unit, log) {
            (Unit::Tail, _) => Self::tail(most),
            (_, true) => Self::logarithmic(least, most),
            (_, false) => Self::linear(most),
        }
    }

    /// From zero, with four to eight round steps.
    fn linear(most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 5.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * decade);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(decade);
        let count = (most / step).ceil() as usize;
        let ticks = (0..=count).map(|at| at as f64 * step).collect();
        Self { least: 0.0, most: count as f64 * step, log: false, ticks }
    }

    /// Decades, with 2 and 5 between them when there are few.
    fn logarithmic(least: f64, most: f64) -> Self {
        let (low, high) = (least.log10(), most.log10());
        let fine = high - low < 2.5;
        let steps: &[f64] = if fine { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let decades = low.floor() as i32..=high.ceil() as i32;
        let all: Vec<f64> = decades
            .flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)))
            .collect();
        let from = all.iter().rposition(|tick| *tick <= least * 1.000_001).unwrap_or(0);
        let to = all.iter().position(|tick| *tick >= most * 0.999_999).unwrap_or(all.len() - 1);
        let ticks = all[from..=to.max(from + 1).min(all.len() - 1)].to_vec();
        let (least, most) = (ticks[0], ticks[ticks.len() - 1]);
        Self { least, most: most.max(least * 10f64.powf(0.1)), log: true, ticks }
    }

    fn tail(most: f64) -> Self {
        let most = most.max(1.0);
        let nines = (1..=most.ceil() as u32).map(f64::from);
        let ticks: Vec<f64> = [0.0, 0.5f64.log10().abs()].into_iter().chain(nines).collect();
        Self { least: 0.0, most: most.ceil(), log: false, ticks }
    }

    /// 0 to 1, or outside for what is not in the range.
    fn place(&self, value: f64) -> f64 {
        if self.log {
            (value / self.least).log10() / (self.most / self.least).log10()
        } else {
            (value - self.least) / (self.most - self.least)
        }
    }
}

impl Plot {
    /// The figure, with caption and legend.
    pub fn html(&self) -> String {
        let mut text = format!("<figure>\n<figcaption>{}</figcaption>\n", escape(&self.title));
        open(&mut text, HEIGHT, &self.title);
        self.contents(&mut text);
        text.push_str("</svg>\n");
        self.legend(&mut text);
        text.push_str("</figure>\n");
        text
    }

    /// The figure as a file of its own, with title and legend inside.
    pub fn document(&self) -> String {
        const HEAD: f64 = 30.0;
        let height = HEAD + HEIGHT + 24.0 * self.curves.len() as f64;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
             <style>\n{}</style>\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" class=\"label\">{}</text>\n<g transform=\"translate(0 {HEAD})\">\n",
            super::STYLE,
            escape(&self.title)
        );
        self.contents(&mut text);
        for (number, curve) in self.curves.iter().enumerate() {
            let up = HEIGHT + 24.0 * number as f64 + 8.0;
            let dash = if curve.dashed { " dashed" } else { "" };
            let _ = writeln!(
                text,
                "<path class=\"line s{}{dash}\" d=\"M{LEFT} {up:.1}h28\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"label\">{}</text>",
                curve.colour % COLOURS,
                LEFT + 36.0,
                up + 4.0,
                escape(&curve.name)
            );
        }
        text.push_str("</g>\n</svg>\n");
        text
    }

    /// All that is inside of the axes' frame, and the frame.
    fn contents(&self, text: &mut String) {
        let xs = self.curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0));
        let ys = self.curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1));
        let (x, y) = (Range::of(&self.x, xs), Range::of(&self.y, ys));
        self.grid(text, &x, &y);
        for (number, mark) in self.marks.iter().enumerate() {
            // One below the other, so that texts of near marks do not cover each other.
            let (at, up) = (horizontal(x.place(mark.at)), TOP + 14.0 + 16.0 * (number % 4) as f64);
            let _ = writeln!(
                text,
                "<path class=\"axis dashed\" d=\"M{at:.1} {TOP}V{}\"/>\
                 <text x=\"{:.1}\" y=\"{up:.1}\" class=\"tick\">{}</text>",
                HEIGHT - BOTTOM,
                at + 4.0,
                escape(&mark.text)
            );
        }
        for curve in &self.curves {
            draw(text, curve, &x, &y);
        }
    }

    fn grid(&self, text: &mut String, x: &Range, y: &Range) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in &x.ticks {
            let at = horizontal(x.place(*tick));
            let label = tick_label(self.x.unit, *tick);
            let _ = writeln!(
                text,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" class=\"tick middle\">{label}</text>",
                bottom + 18.0
            );
        }
        for tick in &y.ticks {
            let at = vertical(y.place(*tick));
            let label = tick_label(self.y.unit, *tick);
            let _ = writeln!(
                text,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"tick end\">{label}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        let middle = (LEFT + right) / 2.0;
        let _ = writeln!(
            text,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\n\
             <text x=\"{middle:.1}\" y=\"{:.1}\" class=\"label middle\">{}</text>\n\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" class=\"label middle\">{}</text>",
            HEIGHT - 10.0,
            escape(self.x.label),
            (TOP + bottom) / 2.0,
            escape(self.y.label),
        );
    }

    fn legend(&self, text: &mut String) {
        text.push_str("<ul class=\"legend\">\n");
        for curve in &self.curves {
            let dash = if curve.dashed { " dashed" } else { "" };
            let _ = writeln!(
                text,
                "<li><svg viewBox=\"0 0 28 10\" width=\"28\" height=\"10\" aria-hidden=\"true\">\
                 <path class=\"line s{}{dash}\" d=\"M1 5H27\"/></svg>{}</li>",
                curve.colour % COLOURS,
                escape(&curve.name)
            );
        }
        text.push_str("</ul>\n");
    }
}

fn draw(text: &mut String, curve: &Curve, x: &Range, y: &Range) {
    let usable = |value: f64, range: &Range| value.is_finite() && (!range.log || value > 0.0);
    let places = curve.points.iter().filter(|point| usable(point.0, x) && usable(point.1, y));
    let places: Vec<_> =
        places.map(|point| (horizontal(x.place(point.0)), vertical(y.place(point.1)))).collect();
    let mut path = String::new();
    for (at, (across, up)) in places.iter().enumerate() {
        let _ = write!(path, "{}{across:.1} {up:.1}", if at == 0 { 'M' } else { 'L' });
    }
    let (colour, dash) = (curve.colour % COLOURS, if curve.dashed { " dashed" } else { "" });
    let _ = writeln!(text, "<path class=\"line s{colour}{dash}\" d=\"{path}\"/>");
    if curve.dots {
        for (across, up) in places {
            let _ = write!(
                text,
                "<circle class=\"dot f{colour}\" cx=\"{across:.1}\" cy=\"{up:.1}\" r=\"3.2\"/>"
            );
        }
        text.push('\n');
    }
}

/// Rows of parts, each as a share of its row: rows may differ by orders of magnitude.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Above it.
    pub title: String,
    /// What the whole of a bar is.
    pub label: &'static str,
    /// Of which kind it is.
    pub unit: Unit,
    /// Names of the parts, in the order in which they are drawn.
    pub parts: Vec<String>,
    /// Name, and size of each part.
    pub rows: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// The figure, with caption and legend.
    pub fn html(&self) -> String {
        const ROW: f64 = 46.0;
        let height = self.rows.len() as f64 * ROW + TOP + BOTTOM;
        let bottom = height - BOTTOM;
        let mut text = format!("<figure>\n<figcaption>{}</figcaption>\n", escape(&self.title));
        open(&mut text, height, &self.title);
        for percent in [0, 20, 40, 60, 80, 100] {
            let at = across(f64::from(percent) / 100.0);
            let _ = writeln!(
                text,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom:.1}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" class=\"tick middle\">{percent} %</text>",
                bottom + 18.0
            );
        }
        for (at, row) in self.rows.iter().enumerate() {
            let top = TOP + at as f64 * ROW;
            let _ = writeln!(
                text,
                "<text x=\"{BAR_LEFT:.1}\" y=\"{:.1}\" class=\"tick\">{}: {}</text>",
                top + 13.0,
                escape(&row.0),
                value_label(self.unit, row.1.iter().sum()),
            );
            self.row(&mut text, &row.1, top + 19.0);
        }
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"label middle\">{}</text>\n</svg>",
            WIDTH / 2.0,
            height - 10.0,
            escape(self.label)
        );
        text.push_str("<ul class=\"legend\">\n");
        for (at, part) in self.parts.iter().enumerate() {
            let _ = writeln!(
                text,
                "<li><svg viewBox=\"0 0 14 10\" width=\"14\" height=\"10\" aria-hidden=\"true\">\
                 <rect class=\"f{}\" width=\"14\" height=\"10\"/></svg>{}</li>",
                at % COLOURS,
                escape(part)
            );
        }
        text.push_str("</ul>\n</figure>\n");
        text
    }

    fn row(&self, text: &mut String, parts: &[f64], top: f64) {
        let whole = parts.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let mut sum = 0.0;
        for (at, part) in parts.iter().enumerate().filter(|(_, part)| **part > 0.0) {
            let (from, to) = (across(sum / whole), across((sum + part) / whole));
            let name = self.parts.get(at).map_or("", String::as_str);
            let _ = write!(
                text,
                "<rect class=\"f{}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"18\">\
                 <title>{}: {}</title></rect>",
                at % COLOURS,
                to - from,
                escape(name),
                value_label(self.unit, *part),
            );
            sum += part;
        }
        text.push('\n');
    }
}

/// Where bars begin: their names stand above them.
const BAR_LEFT: f64 = 24.0;

fn across(place: f64) -> f64 {
    BAR_LEFT + place * (WIDTH - RIGHT - 10.0 - BAR_LEFT)
}

fn open(text: &mut String, height: f64, title: &str) {
    let _ = writeln!(
        text,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
}

fn horizontal(place: f64) -> f64 {
    LEFT + place * (WIDTH - RIGHT - LEFT)
}

fn vertical(place: f64) -> f64 {
    HEIGHT - BOTTOM - place * (HEIGHT - BOTTOM - TOP)
}

fn tick_label(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Tail => tail_label(value),
        _ => value_label(unit, value),
    }
}

fn tail_label(value: f64) -> String {
    let above = 10f64.powf(-value);
    let digits = (value.floor() as usize).saturating_sub(2);
    match value {
        0.0 => "0 %".into(),
        value if value < 1.0 => format!("{:.0} %", 100.0 * (1.0 - above)),
        _ => format!("{:.digits$} %", 100.0 * (1.0 - above)),
    }
}

/// A number as a reader writes it.
pub fn value_label(unit: Unit, value: f64) -> String {
    let short = |value: f64| {
        let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
            false => text,
        }
    };
    match unit {
        Unit::Time if value == 0.0 => "0".into(),
        Unit::Time if value >= 1e6 => format!("{} s", short(value / 1e6)),
        Unit::Time if value >= 1e3 => format!("{} ms", short(value / 1e3)),
        Unit::Time if value < 1.0 => format!("{} ns", short(value * 1e3)),
        Unit::Time => format!("{} us", short(value)),
        Unit::Count | Unit::Tail if value >= 1e6 => format!("{}M", short(value / 1e6)),
        Unit::Count | Unit::Tail if value >= 1e3 => format!("{}k", short(value / 1e3)),
        Unit::Count | Unit::Tail => short(value),
    }
}

/// Text that is no markup.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, unit: Unit) -> Axis {
        Axis { label: "x (unit)", scale, unit }
    }

    fn ticks(scale: Scale, unit: Unit, values: &[f64]) -> Vec<String> {
        let range = Range::of(&axis(scale, unit), values.iter().copied());
        assert!(values.iter().all(|value| (-1e-9..=1.000_001).contains(&range.place(*value))));
        range.ticks.iter().map(|tick| tick_label(unit, *tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let linear = ticks(Scale::Linear, Unit::Count, &[3.0, 187_000.0]);
        assert_eq!(linear, ["0", "50k", "100k", "150k", "200k"]);
        let fine = ticks(Scale::Log, Unit::Time, &[300.0, 4_100.0]);
        assert_eq!(fine, ["200 us", "500 us", "1 ms", "2 ms", "5 ms"]);
        let wide = ticks(Scale::Log, Unit::Time, &[70.0, 900_000.0]);
        assert_eq!(wide, ["10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s"]);
        let tail = ticks(Scale::Linear, Unit::Tail, &[0.0, 4.0]);
        assert_eq!(tail, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(ticks(Scale::Log, Unit::Count, &[10.0]), ["10", "20"]);
    }

    #[test]
    fn values_that_have_no_place_are_left_out() {
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.0), (3.0, 10.0)];
        let curve = Curve { name: "a<b".into(), points, colour: 9, dashed: true, dots: true };
        let plot = Plot {
            title: "\"t\"".into(),
            x: axis(Scale::Linear, Unit::Count),
            y: axis(Scale::Log, Unit::Time),
            curves: vec![curve],
            marks: Vec::new(),
        };
        let html = plot.html();
        assert_eq!(html.matches("<circle").count(), 2, "{html}");
        assert!(html.contains("a&lt;b") && html.contains("&quot;t&quot;"));
        assert!(!html.contains("NaN") && !html.contains("inf"));
        let empty = Plot { curves: Vec::new(), ..plot };
        assert!(!empty.html().contains("NaN"));
    }

    #[test]
    fn parts_of_a_bar_stand_one_after_the_other() {
        let bars = Bars {
            title: "t".into(),
            label: "time",
            unit: Unit::Time,
            parts: vec!["first".into(), "none".into(), "second".into()],
            rows: vec![("row".into(), vec![400.0, 0.0, 600.0])],
        };
        let html = bars.html();
        assert!(html.contains("first: 400 us") && html.contains("second: 600 us"));
        assert!(!html.contains("none: "), "nothing is drawn for nothing");
    }
}
