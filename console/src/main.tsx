import { Fragment, render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Audit } from "./audit.tsx";
import { Note } from "./parts.tsx";
import { PrincipalPage, Principals, Tenants } from "./places.tsx";
import { Reveal } from "./reveal.tsx";
import { Roles } from "./roles.tsx";
import { home, Shell } from "./shell.tsx";
import { Lapsed, PROBLEMS, SignedIn, SignIn } from "./signin.tsx";
import { ended, href, lapsed, may, me, notes, person, resume, route, settings, tenant } from "./state.ts";
import { Status } from "./status.tsx";
import { TokenPage } from "./token.tsx";
import { Tokens } from "./tokens.tsx";

const TITLES: Readonly<Record<string, string>> = {
  "/tokens": "All tokens",
  "/mine": "My tokens",
  "/principals": "Principals",
  "/roles": "Roles",
  "/tenants": "Tenants",
  "/audit": "Audit",
  "/status": "Status",
};
const NEEDED: Readonly<Record<string, string>> = {
  "/principals": "sallyport.principals.write",
  "/roles": "sallyport.tokens.read",
  "/tenants": "sallyport.operator",
  "/audit": "sallyport.audit.read",
  "/status": "sallyport.operator",
};

function Page() {
  const { path } = route.value;
  const [, first = "", second = ""] = path.split("/");
  const needed = NEEDED[`/${first}`] ?? (path === "/tokens" ? "sallyport.tokens.read" : undefined);
  if (needed !== undefined && !may(needed)) {
    return (
      <>
        <h1>{TITLES[`/${first}`]}</h1>
        <Note kind="warn">
          This page needs the permission <code>{needed}</code>. Your token does not have it.
        </Note>
      </>
    );
  }
  if (first === "tokens" && second !== "") return <TokenPage key={second} id={decoded(second)} />;
  if (first === "principals" && second !== "") return <PrincipalPage key={second} name={decoded(second)} />;
  switch (path) {
    case "/tokens":
      return <Tokens key="all" />;
    case "/mine":
      return <Tokens key="mine" mine />;
    case "/principals":
      return <Principals />;
    case "/roles":
      // A page token and a form belong to the tenant.
      return <Roles key={tenant.value} />;
    case "/tenants":
      return <Tenants />;
    case "/audit":
      return <Audit />;
    case "/status":
      return <Status />;
    default:
      return (
        <>
          <h1>There is no such page</h1>
          <p>
            <a href={href(home())}>Go to the tokens</a>
          </p>
        </>
      );
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function App() {
  const { path } = route.value;
  const signedIn = me.value !== undefined;
  const before = useRef(path);
  useEffect(() => {
    document.title = signedIn ? `${TITLES[path] ?? "Token"} · Sallyport` : "Sign in · Sallyport";
    if (before.current === path) return;
    // A note stays on its own page until somebody leaves it.
    const left = before.current.replace(/^\/tokens\//, "").replace(/^\/principals\//, "principal:");
    before.current = path;
    if (notes.value.has(left)) {
      const rest = new Map(notes.value);
      rest.delete(left);
      notes.value = rest;
    }
    if (document.querySelector("dialog[open]") === null) document.getElementById("main")?.focus();
  }, [path, signedIn]);
  useEffect(() => {
    if (signedIn && path === "/") location.replace(href(home()));
  }, [signedIn, path]);
  if (path === "/signed-in") return <SignedIn />;
  if (!signedIn) return <SignIn />;
  return (
    <Fragment key={person.value}>
      <Shell>
        <Page />
      </Shell>
      <Reveal />
      {lapsed.value && <Lapsed />}
    </Fragment>
  );
}

async function start(): Promise<void> {
  try {
    settings.value = await (await fetch("config.json", { cache: "no-store", credentials: "omit" })).json();
  } catch {
    settings.value = { version: "", tokenSignIn: true, idleTimeout: 900, issuers: [] };
  }
  const { path, query } = route.value;
  if (path === "/sign-in") {
    ended.value = PROBLEMS[query.get("problem") ?? ""] ?? "";
    location.replace("#/");
  } else if (path !== "/signed-in") await resume();
  render(<App />, document.getElementById("app")!);
}

void start();
