"use strict";
// The equations of Xu et al. (2015) in MathML, which browsers show without a library. Names are the paper's.

const { SYMBOLS, EQUATIONS } = (() => {
  const mi = (name) => `<mi>${name}</mi>`;
  const vec = (name) => `<mi mathvariant="normal" class="vector">${name}</mi>`; // vectors and matrices are upright and bold
  const mo = (sign) => `<mo stretchy="false">${sign}</mo>`;
  const sub = (base, ...index) => `<msub>${base}<mrow>${index.join("")}</mrow></msub>`;
  const fn = (name, ...argument) => `${name}${mo("(")}${argument.join("")}${mo(")")}`;
  const named = (name) => `<mi mathvariant="normal">${name}</mi>`;
  const sum = (under) => `<munder>${mo("∑")}${under}</munder>`;
  const frac = (over, under) => `<mfrac><mrow>${over}</mrow><mrow>${under}</mrow></mfrac>`;
  const math = (...parts) => `<math>${parts.join("")}</math>`;
  const line = (number, ...parts) => [number, math(...parts)]; // an equation and its number in the paper

  const i = mi("i"), t = mi("t"), before = t + mo("−") + "<mn>1</mn>";
  const at = (name, ...index) => sub(vec(name), ...(index.length ? index : [t]));
  const hBefore = at("h", before), aI = at("a", i), alphaTI = sub(mi("α"), t, i), eTI = sub(mi("e"), t, i);
  const W = (index) => sub(vec("W"), mi(index)), gatedZ = `${sub(mi("β"), t)}${at("z")}`;
  const fInit = (name) => `${sub(mi("f"), named("init"), mo(","), mi(name))}`;
  const meanA = `${frac("<mn>1</mn>", mi("L"))}${sum(i)}${aI}`;

  const deepOutput = [
    vec("E"), at("y", before), mo("+"), sub(vec("L"), mi("h")), at("h"), mo("+"), sub(vec("L"), mi("z")), gatedZ,
  ].join("");

  const symbols = {
    Ey: math(vec("E"), at("y", before)), hBefore: math(hBefore), cBefore: math(at("c", before)), z: math(at("z")),
    i: math(at("i")), f: math(at("f")), o: math(at("o")), g: math(at("g")), c: math(at("c")), h: math(at("h")),
    deep: math(vec("d")),
  };

  const transposed = (x) => `<msup>${x}${mo("⊤")}</msup>`;
  const query = `${W("h")}${hBefore}`, key = `${W("a")}${aI}`;
  const tanhScore = (joined) => `${transposed(vec("v"))}${fn(named("tanh"), joined)}`;
  const scoreEquations = {
    additive: tanhScore(`${key}${mo("+")}${query}`),
    concat: tanhScore(`${vec("W")}${mo("[")}${hBefore}${mo(";")}${aI}${mo("]")}`),
    dot: `<msubsup>${vec("h")}<mrow>${before}</mrow>${mo("⊤")}</msubsup>${aI}`,
    general: `<msubsup>${vec("h")}<mrow>${before}</mrow>${mo("⊤")}</msubsup>${key}`,
    scaled_dot: frac(
      `${transposed(`<mrow>${mo("(")}${query}${mo(")")}</mrow>`)}${mo("(")}${key}${mo(")")}`,
      `<msqrt>${mi("A")}</msqrt>`,
    ),
  };

  const zero = "<mn>0</mn>", eTK = sub(mi("e"), t, mi("k")), sTI = sub(mi("s"), t, i);
  const yBefore = `<msubsup>${vec("y")}<mn>1</mn><mrow>${before}</mrow></msubsup>`;
  const gate = (name, squash) => line("", at(name), mo("="), fn(squash, sub(vec("T"), mi(name)), vec("x")));
  const phi = `${at("z")}${mo("=")}${fn(mi("φ"), mo("{"), aI, mo("}"), mo(","), mo("{"), alphaTI, mo("}"))}`;
  const logits = `${sub(vec("L"), mi("o"))}${vec("d")}`;
  const movedAlpha = sub("<mover><mi>α</mi><mo>~</mo></mover>", t, i);
  const exponential = (e, temperature) => fn(named("exp"), temperature === 1 ? e : `${e}${mo("/")}<mn>${temperature}</mn>`);

  // The equations of each card; those of the scores and weights depend on the model.
  const equations = {
    start: () => [
      line("", at("c", zero), mo("="), fn(fInit("c"), meanA)),
      line("", at("h", zero), mo("="), fn(fInit("h"), meanA)),
    ],
    scores: (model) => [
      line("4", eTI, mo("="), fn(sub(mi("f"), named("att")), aI, mo(","), hBefore)),
      line("", mo("="), scoreEquations[model.score]),
    ],
    weights: ({ temperature }) => [
      line("5", alphaTI, mo("="), frac(exponential(eTI, temperature), sum(mi("k")) + exponential(eTK, temperature))),
    ],
    expectation: () => [line("6, 13", phi, mo("="), sum(i), alphaTI, aI)],
    location: () => [
      line("6, 9", phi, mo("="), sum(i), sTI, aI),
      line("", sTI, mo("="), "<mn>1</mn>", named("&nbsp;at the largest&nbsp;"), alphaTI),
    ],
    moved: () => [
      line("6, 13", at("z"), mo("="), sum(i), movedAlpha, aI),
      line("", movedAlpha, mo("="), named("the moved light")),
    ],
    beta: () => [line("4.2.1", sub(mi("β"), t), mo("="), fn(mi("σ"), fn(sub(mi("f"), mi("β")), hBefore)))],
    gates: () => [
      line("1", vec("x"), mo("="), mo("["), vec("E"), at("y", before), mo(";"), hBefore, mo(";"), gatedZ, mo("]")),
      gate("i", mi("σ")), gate("f", mi("σ")), gate("o", mi("σ")), gate("g", named("tanh")),
    ],
    state: () => [
      line("2", at("c"), mo("="), at("f"), mo("⊙"), at("c", before), mo("+"), at("i"), mo("⊙"), at("g")),
      line("3", at("h"), mo("="), at("o"), mo("⊙"), fn(named("tanh"), at("c"))),
    ],
    output: () => [
      line("7", fn(mi("p"), at("y"), mo("|"), vec("a"), mo(","), yBefore), mo("∝"), fn(named("exp"), logits)),
      line("", vec("d"), mo("="), deepOutput),
    ],
  };

  return { SYMBOLS: symbols, EQUATIONS: equations };
})();
