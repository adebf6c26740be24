// Numbers as they are written, and not as the nearest of those that JavaScript has. Pure.

const NUMERAL = /^([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?\d{1,1000}))?$/;

/**
 * Which of two numbers is larger, to the last digit.
 * @param {string} one a decimal number: `12345678901234567890`, `1.10`, `-2e-3`
 * @param {string} other
 * @returns {number} less than 0, 0 or more, as one is less than the other, as much, or more; NaN where one is not a number
 */
export function compared(one, other) {
  const a = decimalOf(one);
  const b = decimalOf(other);
  if (!a || !b) return NaN;
  if (a.sign !== b.sign || a.sign === 0) return a.sign - b.sign;
  if (a.point !== b.point) return a.point > b.point ? a.sign : -a.sign;
  if (a.digits === b.digits) return 0;
  return a.digits > b.digits ? a.sign : -a.sign; // as text: they begin at the same place
}

/** `0.digits` times ten to the power of `point`, and its sign. @param {string} text */
function decimalOf(text) {
  const [, minus, whole = "", fraction, bare, exponent = "0"] = NUMERAL.exec(text) ?? [];
  if (minus === undefined) return null;
  const all = whole + (fraction ?? bare ?? "");
  let start = 0;
  while (all[start] === "0") start += 1;
  let end = all.length;
  while (end > start && all[end - 1] === "0") end -= 1;
  const sign = start === end ? 0 : minus === "-" ? -1 : 1;
  return { sign, digits: all.slice(start, end), point: BigInt(exponent) + BigInt(whole.length - start) };
}
