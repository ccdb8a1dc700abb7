use engine::*;
use std::time::{Duration, Instant};
fn three(ctx: &mut Context, n: u32) -> Result<u32> {
    let a = ctx.step("a", |_| Ok::<_, Error>(n + 1))?;
    let b = ctx.step("b", |_| Ok::<_, Error>(a + 1))?;
    ctx.step("c", |_| Ok::<_, Error>(b + 1))
}
fn long(ctx: &mut Context, n: u32) -> Result<u32> {
    let mut sum = 0;
    for i in 0..n { sum += ctx.step("s", |_| Ok::<_, Error>(i))?; }
    Ok(sum)
}
fn tx(ctx: &mut Context, n: i64) -> Result<i64> {
    ctx.pg_transaction("t", |tx| {
        tx.execute("INSERT INTO public.t VALUES ($1)", &[&n])?;
        tx.query_one("SELECT count(*) FROM public.t", &[])?.try_get::<_, i64>(0)
    })
}
struct P; impl log::Log for P { fn enabled(&self,_:&log::Metadata)->bool{true} fn log(&self,r:&log::Record){ if r.level()<=log::Level::Info && r.target().starts_with("engine") {eprintln!("{} {}",r.level(),r.args())}} fn flush(&self){} }
fn main() {
    log::set_logger(&P).unwrap(); log::set_max_level(log::LevelFilter::Info);
    let url = std::env::args().nth(1).unwrap();
    let mut o = Engine::options().app("scratch").suspend_after(Duration::from_millis(100));
    if let Some(s) = std::env::args().nth(2) { o = o.schema(s); }
    let t = Instant::now();
    let e = o.open(&url).unwrap();
    println!("opened in {:?}", t.elapsed());
    let three = e.register("three", three).unwrap();
    let long = e.register("long", long).unwrap();
    let tx = e.register("tx", tx).unwrap();
    let t2 = three.clone();
    let parent = e.register("parent", move |ctx: &mut Context, n: u32| -> Result<u32> {
        let mut hs = vec![];
        for i in 0..n { hs.push(ctx.start(&t2, i)?); }
        let mut s = 0; for h in hs { s += h.result(ctx)?; }
        ctx.sleep(Duration::from_millis(300))?;
        Ok(s)
    }).unwrap();
    e.launch().unwrap();
    println!("launched in {:?}", t.elapsed());
    println!("{:?}", three.start(&e, 1).unwrap().result());
    let t = Instant::now();
    println!("{:?}", long.start(&e, 1000).unwrap().result());
    println!("1000 steps {:?}", t.elapsed());
    let t = Instant::now();
    for i in 0..200 { three.start(&e, i).unwrap().result().unwrap(); }
    println!("200 x 3-step at 1: {:?}", t.elapsed());
    let r1 = 200.0 / t.elapsed().as_secs_f64();
    for at in [16, 64, 256] {
    let t = Instant::now();
    std::thread::scope(|s| for _ in 0..at { s.spawn(|| for i in 0..(6400/at) as u32 { three.start(&e, i).unwrap().result().unwrap(); }); });
    println!("6400 3-step at {at}: {:?}, ratio {}", t.elapsed(), 6400.0 / t.elapsed().as_secs_f64() / r1);
    }
    println!("parent {:?}", parent.start(&e, 10).unwrap().result());
    println!("tx {:?}", tx.start(&e, 10).unwrap().result());
    println!("{:?}", e.shutdown(Duration::from_secs(2)));
}
