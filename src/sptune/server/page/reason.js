// Why a prompt spoke, in words.

import { TOGETHER } from "./talks.js";

/** @param exchange with a selection and a voice  @returns {string} */
export function reasonOf({ selection, choice, voice }) {
  const { prompt, scores, margin, weights } = selection;
  if (voice === TOGETHER) return together(weights);
  const speaker = Number(voice);
  const ranked = scores.map((_, k) => k).sort((a, b) => scores[b] - scores[a]);
  const [best, second] = ranked;
  if (scores.length === 1) return "There is one prompt, so there was nothing to choose.";
  const elsewhere = speaker === best ? "It scores best, too." : `Prompt ${best} scores best.`;
  if (speaker !== prompt || weights) return `Prompt ${speaker} speaks because you chose its reply. ${elsewhere}`;
  if (Number.isInteger(choice.prompt)) return `Prompt ${speaker} spoke because you asked for it. ${elsewhere}`;
  if (scores[speaker] < scores[best]) {
    return `Prompt ${speaker} spoke again: prompt ${best} scores best now, but not by enough to take over.`;
  }
  const other = speaker === best ? second : best;
  if (margin <= 0) return `Prompt ${speaker} spoke: it scores as well as prompt ${other}.`;
  return `Prompt ${speaker} spoke: it scores best, ${margin.toFixed(3)} ahead of prompt ${other}.`;
}

function together(weights) {
  const most = Math.max(...weights);
  const spoke = `All ${weights.length} prompts spoke together`;
  if (most - Math.min(...weights) < 0.005) return `${spoke}, each as much as the others.`;
  return `${spoke}, weighed by their scores: prompt ${weights.indexOf(most)} counts most, ${Math.round(100 * most)}%.`;
}
