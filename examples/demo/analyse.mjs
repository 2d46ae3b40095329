// The job's command: knows nothing of Stowage, only files and three environment variables.
// Joins a sample of United States flights with the airports' coordinates: who is late, and do the recorded distances agree with the map?
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const flights = JSON.parse(readFileSync(process.env.STOWAGE_INPUT_FLIGHTS, "utf8"));
const airports = new Map(parseCsv(readFileSync(process.env.STOWAGE_INPUT_AIRPORTS, "utf8")).map((row) => [row.iata, row]));
const output = process.env.STOWAGE_OUTPUT;

const origins = new Map();
let compared = 0;
let distanceError = 0;
for (const { origin, destination, delay, distance } of flights) {
  const from = airports.get(origin);
  const to = airports.get(destination);
  if (from === undefined || to === undefined) continue;
  const entry = origins.get(origin) ?? { airport: from, flights: 0, delay: 0, late: 0 };
  entry.flights += 1;
  entry.delay += delay;
  if (delay > 15) entry.late += 1;
  origins.set(origin, entry);
  distanceError += Math.abs(greatCircleMiles(from, to) - distance);
  compared += 1;
}

const table = [...origins.values()]
  .filter(({ flights }) => flights >= 20)
  .map(({ airport, flights, delay, late }) => ({ airport, flights, meanDelay: delay / flights, lateShare: late / flights }))
  .sort((a, b) => b.lateShare - a.lateShare);

writeFileSync(
  join(output, "delays-by-airport.csv"),
  ["iata,name,flights,mean_delay_minutes,share_more_than_15_minutes_late"]
    .concat(table.map((r) => [r.airport.iata, `"${r.airport.name}"`, r.flights, r.meanDelay.toFixed(2), r.lateShare.toFixed(4)].join(",")))
    .join("\n")
    .concat("\n"),
);
writeFileSync(join(output, "map.svg"), drawMap(table));
const summary = [
  `${flights.length.toLocaleString("en")} flights, ${table.length} airports with 20 departures or more.`,
  `Recorded distances differ from the great circle by ${(distanceError / compared).toFixed(1)} miles on average (${compared.toLocaleString("en")} compared).`,
  "Most often late:",
  ...table
    .slice(0, 5)
    .map(
      (r) =>
        `  ${r.airport.iata}  ${r.airport.city}, ${r.airport.state}: ${(100 * r.lateShare).toFixed(0)} % of ${r.flights} departures, ${r.meanDelay.toFixed(1)} min on average`,
    ),
  "Most punctual:",
  ...table
    .slice(-3)
    .reverse()
    .map(
      (r) => `  ${r.airport.iata}  ${r.airport.city}, ${r.airport.state}: ${(100 * r.lateShare).toFixed(0)} % of ${r.flights} departures`,
    ),
];
writeFileSync(join(output, "report.txt"), `${summary.join("\n")}\n`);
console.log(summary.join("\n"));

function greatCircleMiles(from, to) {
  const radians = Math.PI / 180;
  const [latitude1, latitude2] = [from.latitude * radians, to.latitude * radians];
  const halfLatitude = (latitude2 - latitude1) / 2;
  const halfLongitude = ((to.longitude - from.longitude) * radians) / 2;
  const a = Math.sin(halfLatitude) ** 2 + Math.cos(latitude1) * Math.cos(latitude2) * Math.sin(halfLongitude) ** 2;
  return 2 * 3958.8 * Math.asin(Math.sqrt(a));
}

function drawMap(rows) {
  const x = (longitude) => ((Number(longitude) + 125) * 15).toFixed(1);
  const y = (latitude) => ((50 - Number(latitude)) * 19).toFixed(1);
  const circles = rows
    .filter(({ airport }) => airport.longitude > -125 && airport.latitude > 24)
    .map(({ airport, flights, lateShare }) => {
      const hue = Math.round(120 * (1 - Math.min(1, lateShare / 0.35)));
      return `<circle cx="${x(airport.longitude)}" cy="${y(airport.latitude)}" r="${(1 + Math.sqrt(flights) / 3).toFixed(1)}" fill="hsl(${hue} 80% 45% / 0.75)"><title>${airport.iata}</title></circle>`;
    });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 500"><rect width="900" height="500" fill="#f6f6f2"/>${circles.join("")}</svg>\n`;
}

function parseCsv(text) {
  const [header, ...lines] = text
    .trim()
    .split(/\r?\n/)
    .map((line) => [...line.matchAll(/("([^"]*)"|[^,]*)(,|$)/g)].map((m) => m[2] ?? m[1]));
  return lines.map((values) => Object.fromEntries(header.map((name, index) => [name, values[index]])));
}
