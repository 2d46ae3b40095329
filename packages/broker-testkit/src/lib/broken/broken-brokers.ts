import { brokenAnswers } from "./broken-answers.ts";
import type { BrokenBroker } from "./broken-broker.ts";
import { brokenContainment } from "./broken-containment.ts";
import { brokenListing } from "./broken-listing.ts";
import { brokenManners } from "./broken-manners.ts";
import { brokenPublishing } from "./broken-publishing.ts";
import { brokenVerification } from "./broken-verification.ts";

/** Brokers with one fault each. A kit that lets one of them pass has lost a tooth. */
export const brokenBrokers: readonly BrokenBroker[] = [
  ...brokenPublishing,
  ...brokenListing,
  ...brokenContainment,
  ...brokenVerification,
  ...brokenAnswers,
  ...brokenManners,
];
